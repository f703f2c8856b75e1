//! Every file of `tests/bad_files` gives exactly the errors that `expected.txt` lists, at their places. A line of it
//! is `FILE:LINE:COLUMN: part of the reason`, in the order in which the errors are printed.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use super::{super::load, errors_of};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_files")
}

#[test]
fn every_bad_file_gives_its_errors() -> Result<(), Box<dyn Error>> {
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in fs::read_to_string(directory().join("expected.txt"))?.lines() {
        let (file, _) = line.split_once(':').ok_or("a line without a colon")?;
        expected.entry(file.to_owned()).or_default().push(line.to_owned());
    }
    assert!(expected.len() >= 150, "the table has shrunk to {} files", expected.len());
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(directory())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".yaml") {
            files.insert(name);
        }
    }
    assert_eq!(files, expected.keys().cloned().collect(), "the files and the table differ");
    let mut wrong = Vec::new();
    for (file, expected) in &expected {
        let path = directory().join(file);
        let prefix = format!("{}/", directory().display());
        let found: Vec<String> = match load(std::slice::from_ref(&path)) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.to_string().replace(&prefix, "").lines().map(str::to_owned).collect(),
        };
        let matches = found.len() == expected.len()
            && found.iter().zip(expected).all(|(found, expected)| is_expected(found, expected));
        if !matches {
            wrong.push(format!("{file}:\n  expected {expected:#?}\n  found {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Whether the place is the same and the reason contains the expected part.
fn is_expected(found: &str, expected: &str) -> bool {
    match (found.split_once(": "), expected.split_once(": ")) {
        (Some((place, reason)), Some((expected_place, part))) => {
            place == expected_place && reason.contains(part)
        }
        _ => false,
    }
}

#[test]
fn unreadable_files_are_named() {
    let missing = directory().join("no-such-file.yaml");
    for (path, reason) in [(missing, "No such file"), (directory(), "Is a directory")] {
        let errors =
            load(std::slice::from_ref(&path)).err().map(|errors| errors.to_string()).unwrap_or_default();
        assert!(errors.starts_with(&format!("{}:1:1: cannot be read: ", path.display())), "{errors}");
        assert!(errors.contains(reason), "{errors}");
    }
    assert!(load(&[]).is_err());
}

#[test]
fn an_enormous_file_is_refused_before_it_is_read_whole() -> Result<(), Box<dyn Error>> {
    // A terabyte of holes: reading it whole would not end soon.
    let file = tempfile::NamedTempFile::new()?;
    file.as_file().set_len(1 << 40)?;
    let errors = load(&[file.path().to_owned()]).err().map(|errors| errors.to_string()).unwrap_or_default();
    assert!(errors.contains(":1:1: the file is larger than 4 MiB"), "{errors}");
    let long = format!("# {}\nservices: {{}}\n", "x".repeat(4 * 1024 * 1024));
    assert!(errors_of(&long).starts_with("test.yaml:1:1: the file is larger than 4 MiB"));
    Ok(())
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let fifo = directory.path().join("state.yaml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    for path in [fifo, PathBuf::from("/dev/zero")] {
        let (sender, receiver) = mpsc::channel();
        let named = path.clone();
        // A thread, for nobody ever writes into the FIFO: whoever waits for that waits for ever.
        thread::spawn(move || sender.send(load(&[named]).err().map(|errors| errors.to_string())));
        let errors = receiver.recv_timeout(Duration::from_secs(10))?.unwrap_or_default();
        let expected = format!("{}:1:1: cannot be read: it is no regular file", path.display());
        assert!(errors.starts_with(&expected), "{errors}");
    }
    Ok(())
}

#[test]
fn many_errors_are_cut() {
    let ports: String = (0..500).map(|_| "      - \"0:80\"\n").collect();
    let text = format!("services:\n  web:\n    x-weft: {{ netns: web }}\n    ports:\n{ports}");
    let errors = errors_of(&text);
    assert_eq!(errors.lines().count(), 101);
    assert!(errors.ends_with("… and 400 more"), "{errors}");
}

#[test]
fn control_characters_of_the_file_do_not_reach_the_terminal() {
    let errors = errors_of("networks:\n  front: { driver: \"\\e[31mred\\a\" }\n");
    assert!(errors.contains("red"), "{errors}");
    assert!(!errors.contains('\u{1b}') && !errors.contains('\u{7}'), "{errors:?}");
}
