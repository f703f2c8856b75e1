//! The Compose subset of the file format, read into the model.
