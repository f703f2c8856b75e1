//! Real files in real directories.

use std::{os::unix::fs::symlink, time::Duration};

use proptest::prelude::*;

use super::*;

type TestResult = Result<(), Box<dyn std::error::Error>>;

#[tokio::test]
async fn a_swapped_directory_on_the_way_is_noticed_and_watched() -> TestResult {
    let root = tempfile::tempdir()?;
    let (current, next) = (root.path().join("current"), root.path().join("next"));
    for release in ["r1", "r2"] {
        fs::create_dir(root.path().join(release))?;
        fs::write(root.path().join(release).join("state.yaml"), "services: {}")?;
    }
    symlink("r1", &current)?;
    let files = [current.join("state.yaml")];
    let mut watch = Watch::new(&files)?;
    let stamp = stamps(&files);
    assert!(!watch.is_stale(&files));
    assert_eq!(stamps(&files), stamp);

    symlink("r2", &next)?;
    fs::rename(&next, &current)?;
    assert!(watch.is_stale(&files));
    assert_ne!(stamps(&files), stamp);
    watch = Watch::new(&files)?;
    assert!(!watch.is_stale(&files));
    fs::write(root.path().join("r2/state.yaml"), "networks: {}")?;
    tokio::time::timeout(Duration::from_secs(10), watch.changed()).await?;
    Ok(())
}

#[test]
fn a_directory_made_anew_is_noticed() -> TestResult {
    let root = tempfile::tempdir()?;
    let directory = root.path().join("state");
    fs::create_dir(&directory)?;
    let files = [directory.join("state.yaml")];
    let watch = Watch::new(&files)?;
    fs::remove_dir(&directory)?;
    assert!(watch.is_stale(&files));
    assert!(Watch::new(&files).is_err());
    fs::create_dir(&directory)?;
    assert!(watch.is_stale(&files));
    Ok(())
}

#[tokio::test]
async fn a_directory_is_all_its_files() -> TestResult {
    let root = tempfile::tempdir()?;
    let sources = [root.path().to_owned()];
    let mut known = Known::default();
    let service = |name: &str| format!("services: {{ {name}: {{ network_mode: none }} }}");
    let mut names = || -> Result<Vec<String>, Vec<FileError>> {
        load(&sources, &mut known).map(|loaded| loaded.state.containers.into_keys().collect())
    };
    let empty = names().err().unwrap_or_default();
    assert!(empty.len() == 1 && empty[0].reason.contains("no *.yaml or *.yml"), "{empty:?}");
    for leftover in [".b.yaml", "#b.yaml#", "b.yaml~", ".#b.yaml", "b.yaml.swp", "b.txt"] {
        fs::write(root.path().join(leftover), service("leftover"))?;
    }
    fs::create_dir(root.path().join("sub.yaml"))?;
    assert!(names().is_err());
    fs::write(root.path().join("b.yaml"), service("b"))?;
    assert_eq!(names(), Ok(vec!["b".to_owned()]));

    let mut watch = Watch::new(&sources)?;
    let mut stamp = stamps(&sources);
    let mut change = async |expected: Result<Vec<String>, &str>| -> TestResult {
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await?;
        assert_ne!(mem::replace(&mut stamp, stamps(&sources)), stamp);
        let found = names();
        match expected {
            Ok(expected) => assert_eq!(found, Ok(expected)),
            Err(place) => {
                let errors = found.err().unwrap_or_default();
                assert!(errors.iter().any(|error| error.to_string().contains(place)), "{errors:?}");
            }
        }
        Ok(())
    };
    fs::write(root.path().join("new"), service("a"))?;
    fs::rename(root.path().join("new"), root.path().join("a.yml"))?;
    change(Ok(vec!["a".into(), "b".into()])).await?;
    // Places stay right while files come and go before theirs.
    fs::write(root.path().join("new"), "services: { c: { nothing: 1 } }")?;
    fs::rename(root.path().join("new"), root.path().join("0.yaml"))?;
    change(Err("0.yaml:1:18")).await?;
    fs::write(root.path().join("new"), service("d"))?;
    fs::rename(root.path().join("new"), root.path().join("0.yaml"))?;
    change(Ok(vec!["a".into(), "b".into(), "d".into()])).await?;
    fs::remove_file(root.path().join("b.yaml"))?;
    change(Ok(vec!["a".into(), "d".into()])).await?;
    Ok(())
}

#[test]
fn a_rewritten_file_has_another_stamp() -> TestResult {
    let file = tempfile::NamedTempFile::new()?;
    let files = [file.path().to_owned(), PathBuf::from("/there/is/no/such/file")];
    fs::write(file.path(), "a")?;
    let stamp = stamps(&files);
    // Of the same size, and later by more than any clock of a file system is coarse.
    std::thread::sleep(Duration::from_millis(20));
    fs::write(file.path(), "b")?;
    assert_ne!(stamps(&files), stamp);
    Ok(())
}

/// What becomes of one file: of the directory, or the last, which is a source of its own.
#[derive(Debug, Clone)]
struct Edit {
    file: usize,
    becomes: Becomes,
}

#[derive(Debug, Clone)]
enum Becomes {
    Text(String),
    Gone,
    /// A link to nothing.
    Dangling,
}

/// The number of the file that is a source of its own.
const SINGLE: usize = 5;

fn service() -> impl Strategy<Value = String> {
    let attachment = prop_oneof![
        12 => (0_u8..2, 2_u8..30)
            .prop_map(|(network, host)| format!("net{network}: {{ ipv4_address: 10.{network}.0.{host} }}")),
        3 => Just("net0: {}".to_owned()),
        1 => Just("own: {}".to_owned()),
        1 => Just("default: {}".to_owned()),
    ];
    let port = prop_oneof![
        8 => (1_u16..60).prop_map(|port| format!("\"{port}:80\"")),
        1 => (1_u16..60).prop_map(|port| format!("\"{port}-{}:80-83/udp\"", port + 3)),
        1 => (1_u16..60).prop_map(|port| format!("\"127.0.0.1:{port}:80\"")),
        1 => Just("\"80\"".to_owned()),
        1 => Just("\"100-104:80\"".to_owned()),
        1 => Just("\"4789:80/udp\"".to_owned()),
    ];
    let attachments = proptest::collection::vec(attachment, 0..2);
    let ports = proptest::collection::vec(port, 0..3);
    let more = prop_oneof![
        16 => Just(String::new()),
        1 => (0_u8..8).prop_map(|other| format!(", links: [ s{other} ]")),
        1 => (0_u8..3).prop_map(|name| format!(", container_name: name{name}")),
    ];
    let stack = prop_oneof![
        16 => (0_u8..20).prop_map(Some),
        1 => Just(None),
    ];
    let mode = prop_oneof![
        (0_u8..8).prop_map(|other| format!("{{ network_mode: service:s{other} }}")),
        (0_u8..3).prop_map(|name| format!("{{ network_mode: container:name{name} }}")),
        Just("{ network_mode: none }".to_owned()),
    ];
    let usual = (attachments, ports, more, stack).prop_map(|(attachments, ports, more, stack)| {
        let (attachments, ports) = (attachments.join(", "), ports.join(", "));
        let stack = stack.map(|stack| format!(", x-weft: {{ netns: n{stack} }}")).unwrap_or_default();
        format!("{{ networks: {{ {attachments} }}, ports: [ {ports} ]{more}{stack} }}")
    });
    prop_oneof![10 => usual, 1 => mode]
}

fn text() -> impl Strategy<Value = String> {
    let services = proptest::collection::btree_map(0_u8..8, service(), 0..3);
    let head = prop_oneof![
        20 => Just(""),
        2 => Just("networks: { own: { external: true, name: net1 } }\n"),
        1 => Just("networks: { own: { external: true, name: net2 } }\n"),
        1 => Just("networks: { own: {} }\n"),
        1 => Just("x-weft: { peers: [ { vtep: 192.0.2.9, network: net1, endpoints: [ { name: far, ipv4_address: \
                   10.1.0.5, mac_address: \"02:00:00:00:00:05\" } ] } ] }\n"),
        1 => Just("name: Not A Name\n"),
        1 => Just("services: [\n"),
    ];
    (services, head).prop_map(|(services, head)| {
        let services: String = services.iter().map(|(name, it)| format!("  s{name}: {it}\n")).collect();
        format!("{head}services:\n  none: {{ network_mode: none }}\n{services}").replacen(
            "  none: { network_mode: none }\n",
            if services.is_empty() { "  {}\n" } else { "" },
            1,
        )
    })
}

fn edit() -> impl Strategy<Value = Edit> {
    let becomes = prop_oneof![
        16 => text().prop_map(Becomes::Text),
        2 => Just(Becomes::Gone),
        1 => Just(Becomes::Dangling),
    ];
    (0..=SINGLE, becomes).prop_map(|(file, becomes)| Edit { file, becomes })
}

const NETWORKS: &str = "networks:\n  net0: { ipam: { config: [ { subnet: 10.0.0.0/24 } ] } }\n  net1: { driver: overlay, \
                        driver_opts: { com.docker.network.driver.overlay.vxlanid_list: 7 }, ipam: { config: [ { subnet: \
                        10.1.0.0/24 } ] } }\n";

/// Makes edits and reads only the files edited, in turns as told and as found by looking at all files, where that is
/// enough; after each a fresh load of all files must find the same. Answers how often it was enough.
fn compare(rounds: Vec<Vec<Edit>>) -> Result<usize, TestCaseError> {
    let (root, beside) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let single = beside.path().join("single.yaml");
    let sources = [root.path().to_owned(), single.clone()];
    fs::write(root.path().join("networks.yaml"), NETWORKS)?;
    fs::write(&single, "services: {}\n")?;
    let mut known = Known::default();
    let mut loaded =
        load(&sources, &mut known).map_err(|errors| TestCaseError::fail(format!("{errors:?}")))?;
    let mut enough = 0;
    for (round, edits) in rounds.into_iter().enumerate() {
        let mut changed = BTreeSet::new();
        for Edit { file, becomes } in edits {
            let directory = root.path();
            let path = if file == SINGLE { single.clone() } else { directory.join(format!("f{file}.yaml")) };
            let new = path.with_extension("new");
            match becomes {
                Becomes::Text(text) => {
                    fs::write(&new, text)?;
                    fs::rename(&new, &path)?;
                }
                Becomes::Gone => drop(fs::remove_file(&path)),
                Becomes::Dangling => {
                    symlink("/there/is/no/such/file", &new)?;
                    fs::rename(&new, &path)?;
                }
            }
            changed.insert(path);
        }
        let fresh = load(&sources, &mut Known::default());
        let before = loaded.clone();
        let touched = match round % 2 {
            0 => update(&sources, &changed, &mut known, &mut loaded),
            _ => refresh(&sources, &mut known, &mut loaded),
        };
        match touched {
            Some(touched) => {
                enough += 1;
                let (old, new) = (&before.state.containers, &loaded.state.containers);
                let names = old.keys().chain(new.keys());
                let differ: BTreeSet<String> =
                    names.filter(|name| old.get(*name) != new.get(*name)).cloned().collect();
                prop_assert_eq!(touched, differ);
                prop_assert_eq!(fresh.as_ref(), Ok(&loaded));
                prop_assert!(is_current(&sources, &known));
            }
            None => {
                prop_assert_eq!(&loaded, &before, "nothing was changed");
                let whole = load(&sources, &mut known);
                // Which of two places is complained about depends on which file was there first.
                prop_assert_eq!(whole.as_ref().ok(), fresh.as_ref().ok());
                loaded = whole.unwrap_or(loaded);
            }
        }
    }
    Ok(enough)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn reading_what_changed_is_reading_everything(
        rounds in proptest::collection::vec(proptest::collection::vec(edit(), 1..3), 1..20)
    ) {
        compare(rounds)?;
    }
}

/// Services that come, change, go and move from file to file do not have the other files read again.
#[test]
fn a_file_of_services_is_read_alone() -> Result<(), TestCaseError> {
    let text = |name: &str, host: u8| {
        let service =
            format!("{{ networks: {{ net0: {{ ipv4_address: 10.0.0.{host} }} }}, ports: [ \"{host}:80\" ]");
        Becomes::Text(format!("services:\n  {name}: {service}, x-weft: {{ netns: n{host} }} }}\n"))
    };
    let edit = |file, becomes| vec![Edit { file, becomes }];
    let rounds = vec![
        edit(0, text("a", 2)),
        edit(1, text("b", 3)),
        edit(1, text("b", 4)),
        edit(1, text("c", 4)),
        vec![Edit { file: 1, becomes: Becomes::Gone }, Edit { file: 2, becomes: text("c", 4) }],
        edit(0, Becomes::Gone),
        edit(3, text("a", 2)),
        edit(SINGLE, text("d", 5)),
        edit(SINGLE, text("d", 6)),
    ];
    let count = rounds.len();
    prop_assert_eq!(compare(rounds)?, count);
    // An address that another file has: everything is read, for the place to complain about.
    prop_assert_eq!(compare(vec![edit(0, text("a", 2)), edit(1, text("b", 2))])?, 1);
    Ok(())
}

/// A file that a directory lists or that is named itself, and that cannot be looked at, is none that was removed.
#[test]
fn a_file_that_cannot_be_looked_at_is_none_that_was_removed() -> TestResult {
    let (root, beside) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (listed, single) = (root.path().join("web.yaml"), beside.path().join("single.yaml"));
    let sources = [root.path().to_owned(), single.clone()];
    let target = beside.path().join("target");
    fs::write(root.path().join("networks.yaml"), NETWORKS)?;
    fs::write(&target, "services: { web: { network_mode: none } }")?;
    symlink(&target, &listed)?;
    fs::write(&single, "services: { db: { network_mode: none } }")?;
    let mut known = Known::default();
    let mut loaded = load(&sources, &mut known).map_err(|errors| format!("{errors:?}"))?;
    let good = loaded.clone();
    for (lost, named) in [(&target, &listed), (&single, &single)] {
        let aside = beside.path().join("aside");
        let changed = BTreeSet::from([named.clone()]);
        for is_heard in [false, true] {
            fs::rename(lost, &aside)?;
            let touched = match is_heard {
                false => refresh(&sources, &mut known, &mut loaded),
                true => update(&sources, &changed, &mut known, &mut loaded),
            };
            assert_eq!(touched, None, "{}, heard of: {is_heard}", named.display());
            let errors = load(&sources, &mut known).err().unwrap_or_default();
            let expected = format!("{}:1:1: cannot be read: No such file", named.display());
            assert!(errors.len() == 1 && errors[0].to_string().starts_with(&expected), "{errors:?}");
            assert_eq!(loaded, good);
            fs::rename(&aside, lost)?;
            assert_eq!(load(&sources, &mut known).as_ref(), Ok(&good));
        }
        // It went between the moment it was listed or heard of and the moment it was to be read.
        fs::rename(lost, &aside)?;
        assert_eq!(known.update(&changed, &BTreeSet::new(), &mut loaded), None);
        assert_eq!(loaded, good);
        fs::rename(&aside, lost)?;
        assert_eq!(load(&sources, &mut known).as_ref(), Ok(&good));
    }
    // A directory with nothing but services that goes as a whole.
    let (parent, networks) = (tempfile::tempdir()?, beside.path().join("networks.yaml"));
    let directory = parent.path().join("weft.d");
    fs::create_dir(&directory)?;
    fs::write(directory.join("web.yaml"), "services: { web: { network_mode: none } }")?;
    fs::write(&networks, NETWORKS)?;
    let sources = [networks, directory.clone()];
    let mut known = Known::default();
    let mut loaded = load(&sources, &mut known).map_err(|errors| format!("{errors:?}"))?;
    fs::rename(&directory, parent.path().join("aside"))?;
    assert_eq!(refresh(&sources, &mut known, &mut loaded), None);
    assert!(load(&sources, &mut known).is_err());
    Ok(())
}
