//! Writes the loader path of libtorch into every executable of this crate (tests, examples, binaries),
//! because cargo only does so for libraries inside its own target folder.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Ok(libtorch) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{libtorch}");
    }
}
