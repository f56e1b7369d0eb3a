use std::process::Command;

/// Cargo's own word on what a lone coordinator is built from. Needs no network: the lock file and sources are here.
#[test]
fn the_coordinator_is_built_without_the_code_that_opens_payloads() {
    let features = |package: &str| {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "--locked", "-e", "normal,features", "--prefix", "none", "-p", package])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let opens = |tree: &str| tree.contains("twinmesh-protocol feature \"open\"");
    assert!(opens(&features("twinmesh-node")), "the test sees the feature where it is");
    let coordinator = features("twinmesh-coordinator");
    assert!(coordinator.contains("twinmesh-protocol"));
    assert!(!opens(&coordinator));
}
