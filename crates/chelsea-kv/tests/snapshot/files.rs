//! Saving: whole or not at all.

use super::{LARGER, SMALL, config, example, names};
use chelsea_kv::Budget;
use chelsea_kv::snapshot::{SnapshotError, inspect, is_snapshot, load, save};
use std::path::Path;
use std::sync::Arc;

#[test]
fn a_failed_save_leaves_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, info) = example(config(SMALL, "chelsea", Budget::EntryFraction(0.5)), 100);
    let missing = folder.path().join("missing").join("cache");
    let error = save(&missing, &cache, &info).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(!missing.parent().unwrap().exists());
    let error = save(folder.path(), &cache, &info).unwrap_err();
    assert!(matches!(error, SnapshotError::NotAFile(_)), "{error}");
    assert!(names(folder.path()).is_empty());
    assert!(matches!(load(&missing, None, None), Err(SnapshotError::Io { action: "read", .. })));
    assert!(matches!(load(folder.path(), None, None), Err(SnapshotError::Io { .. })));
    assert!(matches!(inspect(folder.path()), Err(SnapshotError::NotAFile(_))));
    assert!(!is_snapshot(folder.path()) && !is_snapshot(&missing));
}

/// A limit on the size of files stands in for a full disk: writing fails half-way. It holds for a whole
/// process, so the save happens in a second one, which is this test again.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_the_old_file() {
    const CHILD: &str = "SAVE_WITH_LITTLE_ROOM";
    let larger = || example(config(LARGER, "full", Budget::EntryFraction(1.0)), 500);
    if let Some(path) = std::env::var_os(CHILD) {
        let (cache, info) = larger();
        let error = save(Path::new(&path), &cache, &info).unwrap_err();
        assert!(matches!(error, SnapshotError::Io { action: "write", .. }), "{error}");
        println!("refused: {error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let (cache, info) = example(config(SMALL, "chelsea", Budget::EntryFraction(0.5)), 100);
    save(&path, &cache, &info).unwrap();
    let before = std::fs::read(&path).unwrap();
    let child = std::process::Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -f 100; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "files::a_disk_that_fills_up_leaves_the_old_file", "--nocapture"])
        .env(CHILD, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("refused"), "{said}{}", String::from_utf8_lossy(&child.stderr));
    assert!(std::fs::read(&path).unwrap() == before);
    assert_eq!(names(folder.path()), ["cache"]);
    let (cache, info) = larger();
    assert!(save(&path, &cache, &info).unwrap() > 100 << 10, "there was too little room for it");
}

#[cfg(unix)]
#[test]
fn a_link_leads_to_the_file_that_is_replaced_and_permissions_stay() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("cache"), folder.path().join("link"));
    let (cache, info) = example(config(SMALL, "chelsea", Budget::EntryFraction(0.5)), 100);
    save(&path, &cache, &info).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&path, &link).unwrap();
    let (cache, info) = example(config(SMALL, "chelsea", Budget::EntryFraction(0.5)), 120);
    save(&link, &cache, &info).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(inspect(&path).unwrap().tokens, 120);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(matches!(save(Path::new("/dev/null"), &cache, &info), Err(SnapshotError::NotAFile(_))));
}

#[test]
fn many_threads_may_save_to_one_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = Arc::new(folder.path().join("cache"));
    let (cache, info) = example(config(SMALL, "chelsea", Budget::EntryFraction(0.5)), 100);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5).for_each(|_| assert!(save(&path, &cache, &info).unwrap() > 0)));
        }
    });
    assert!(load(&path, None, None).is_ok());
    assert_eq!(names(folder.path()), ["cache"]);
}
