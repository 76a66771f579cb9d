//! Unpacking the wheels, leaving out what a Rust program on a CPU does not need.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

use zip::ZipArchive;

use super::cache::Staging;
use super::wheels::Platform;
use crate::{Error, Result};

/// Unpacks the wheels into one tree inside the staging folder and returns the tree.
pub(super) fn unpack_all(platform: &Platform, wheels: &[PathBuf], staging: &Staging) -> Result<PathBuf> {
    let start = Instant::now();
    eprintln!("setup: unpacking");
    let tree = staging.path().join("tree");
    let mut skipped_cuda = false;
    for wheel in wheels {
        skipped_cuda |= unpack(wheel, &tree)?;
    }
    if platform.os == "linux" && skipped_cuda {
        write_linker_script(&tree)?;
    }
    eprintln!("setup: unpacked in {:.0} s", start.elapsed().as_secs_f64());
    Ok(tree)
}

/// Unpacks one wheel; returns whether it is a CUDA build whose CUDA parts were left out.
fn unpack(wheel: &Path, tree: &Path) -> Result<bool> {
    let damaged =
        |error: zip::result::ZipError| Error::environment(format!("{}: {error}", wheel.display()), []);
    let file = File::open(wheel).map_err(Error::io("open", wheel))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
    let mut skipped_cuda = false;
    for index in 0..archive.len() {
        let mut member = archive.by_index(index).map_err(damaged)?;
        let Some(name) = member.enclosed_name() else {
            let message = format!("{}: member {index} would leave the folder", wheel.display());
            return Err(Error::environment(message, []));
        };
        let keep = keep(&name.to_string_lossy());
        skipped_cuda |= !keep && name.ends_with("lib/libtorch_cuda.so");
        if keep && member.is_file() {
            write(&mut member, &tree.join(name))?;
        }
    }
    Ok(skipped_cuda)
}

fn write(member: &mut impl io::Read, path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    }
    let mut file = File::create(path).map_err(Error::io("create", path))?;
    // The archive's checksum is compared at its end; a wrong one is an error here.
    io::copy(member, &mut file).map_err(Error::io("unpack", path))?;
    // A power failure shortly after must not leave a library of zeros behind a good stamp. Ten thousand headers
    // would take minutes; a lost one would show in the sizes that the stamp counts.
    if is_library(path) { file.sync_all().map_err(Error::io("sync", path)) } else { Ok(()) }
}

fn is_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".dylib") || name.ends_with(".so") || name.contains(".so.")
}

/// Whether a member of a wheel is needed: headers, the libraries of the CPU part, and licences.
fn keep(name: &str) -> bool {
    // Windows separators: `enclosed_name` may have turned them.
    let name = name.replace('\\', "/");
    if name.starts_with("torch/include/") || name.contains(".dist-info/licenses/") {
        return true;
    }
    let Some((dir, file)) = name.rsplit_once('/') else { return false };
    match dir {
        "torch/lib" => is_library(Path::new(file)) && !NOT_FOR_CPU.iter().any(|part| file.contains(part)),
        "nvidia/cu13/lib" => file.starts_with("libcudart.so") || file.starts_with("libcupti.so"),
        // Third-party libraries that some wheels carry beside.
        "torch.libs" | "torch/.dylibs" => true,
        _ => false,
    }
}

/// Parts of the names of libraries that need CUDA or Python.
const NOT_FOR_CPU: [&str; 6] =
    ["torch_cuda", "c10_cuda", "torch_python", "nvshmem", "caffe2_nvrtc", "global_deps"];

/// Replaces `libtorch.so`, which in a CUDA build does nothing but require `libtorch_cuda.so`.
fn write_linker_script(tree: &Path) -> Result<()> {
    let path = tree.join("torch/lib/libtorch.so");
    fs::write(&path, "INPUT(-ltorch_cpu)\n").map_err(Error::io("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::wheels::PLATFORMS;
    use std::io::Write as _;
    use zip::write::SimpleFileOptions;

    fn wheel(dir: &Path, members: &[(&str, &str)]) -> PathBuf {
        let path = dir.join("some.whl");
        let mut writer = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, text) in members {
            // Stored, not compressed, so that a test can find the text in the file.
            let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
            writer.start_file(*name, options).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        path
    }

    #[test]
    fn headers_cpu_libraries_and_licences_are_kept() {
        for name in [
            "torch/include/ATen/ATen.h",
            "torch/lib/libtorch_cpu.so",
            "torch/lib/libgomp.so.1",
            "torch/lib/libtorch_cpu.dylib",
            "nvidia/cu13/lib/libcudart.so.13",
            "torch-2.13.0.dist-info/licenses/LICENSE",
        ] {
            assert!(keep(name), "{name}");
        }
        for name in [
            "torch/__init__.py",
            "torch/lib/libtorch_cuda.so",
            "torch/lib/libtorch_cuda_linalg.so",
            "torch/lib/libc10_cuda.so",
            "torch/lib/libtorch_python.so",
            "torch/lib/libtorch_nvshmem.so",
            "torch/lib/libshm/err.h",
            "torch/share/cmake/Torch/TorchConfig.cmake",
            "nvidia/cu13/lib/libcudart_static.a",
            "nvidia/cu13/include/cuda.h",
            "torchgen/utils.py",
            "file",
        ] {
            assert!(!keep(name), "{name}");
        }
    }

    #[test]
    fn a_cuda_build_gets_a_linker_script() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::for_test(dir.path().join("s"));
        let members = [
            ("torch/lib/libtorch.so", "needs cuda"),
            ("torch/lib/libtorch_cuda.so", "big"),
            ("torch/lib/libc10.so", "c10"),
            ("torch/__init__.py", "python"),
        ];
        let path = wheel(dir.path(), &members);
        let tree = unpack_all(&PLATFORMS[0], &[path], &staging).unwrap();
        assert_eq!(fs::read_to_string(tree.join("torch/lib/libtorch.so")).unwrap(), "INPUT(-ltorch_cpu)\n");
        assert_eq!(fs::read_to_string(tree.join("torch/lib/libc10.so")).unwrap(), "c10");
        assert!(
            !tree.join("torch/lib/libtorch_cuda.so").exists() && !tree.join("torch/__init__.py").exists()
        );
    }

    #[test]
    fn a_cpu_build_keeps_its_libtorch() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::for_test(dir.path().join("s"));
        let path = wheel(dir.path(), &[("torch/lib/libtorch.dylib", "real")]);
        let tree = unpack_all(&PLATFORMS[2], &[path], &staging).unwrap();
        assert_eq!(fs::read_to_string(tree.join("torch/lib/libtorch.dylib")).unwrap(), "real");
    }

    #[test]
    fn broken_and_hostile_archives_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        let not_zip = dir.path().join("not.whl");
        fs::write(&not_zip, "hello").unwrap();
        assert_eq!(unpack(&not_zip, &tree).unwrap_err().exit_code(), 3);

        let path = wheel(dir.path(), &[("torch/include/../../../escaped.h", "x")]);
        assert!(unpack(&path, &tree).unwrap_err().to_string().contains("would leave the folder"));
        assert!(!dir.path().join("escaped.h").exists());

        let path = wheel(dir.path(), &[("torch/include/a.h", "checksummed text")]);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(5).position(|w| w == b"check").unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(unpack(&path, &tree).is_err(), "a flipped bit must be noticed");
    }
}
