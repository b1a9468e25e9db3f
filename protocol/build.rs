//! Compiles `src/proto/*.proto` with protox, so that a build needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 5] = ["native.proto", "peer.proto", "metadata.proto", "ticket.proto", "groups.proto"];
    println!("cargo::rerun-if-changed=src/proto");
    let descriptors = protox::compile(FILES, ["src/proto"])?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    config.btree_map(["."]);
    config.compile_fds(descriptors)?;
    Ok(())
}
