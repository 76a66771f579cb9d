//! Which files make a libtorch on which platform, with their hashes.

use crate::{Error, Result};

/// The libtorch version that `tch` expects. A new `tch` minor needs another one.
pub const VERSION: &str = "2.13.0";

/// A file of the Python package index.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wheel {
    /// The pinned requirement, as pip reads it.
    pub requirement: &'static str,
    /// The exact file name, which also names the interpreter and the platform.
    pub file: &'static str,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: &'static str,
    /// Size in megabytes (10^6 bytes), for the talk.
    pub megabytes: u32,
}

impl Wheel {
    /// The flags that make any pip on any interpreter choose this file.
    pub fn pip_tags(&self) -> Vec<String> {
        // NAME-VERSION-PYTHON-ABI-PLATFORM.whl, the platform being one or more tags joined by dots.
        let mut tags = self.file.trim_end_matches(".whl").rsplit('-');
        let platforms = tags.next().unwrap_or_default();
        let abi = tags.next().unwrap_or_default();
        let mut flags: Vec<String> =
            ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11", "--abi", abi]
                .map(str::to_owned)
                .into();
        flags.extend(platforms.split('.').flat_map(|tag| ["--platform".to_owned(), tag.to_owned()]));
        flags
    }

    /// The line of a requirements file with which pip refuses any other file.
    pub fn requirement_line(&self) -> String {
        format!("{} --hash=sha256:{}\n", self.requirement, self.sha256)
    }
}

/// An operating system and processor for which a libtorch is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Platform {
    /// `std::env::consts::OS`
    pub os: &'static str,
    /// `std::env::consts::ARCH`
    pub arch: &'static str,
    /// The name of the cache entry.
    pub key: &'static str,
    /// What to fetch.
    pub wheels: &'static [Wheel],
    /// Files whose absence means that the entry is not whole.
    pub needed: &'static [&'static str],
}

const LINUX_FILES: &[&str] = &[
    "torch/include/ATen/ATen.h",
    "torch/include/torch/csrc/api/include/torch/torch.h",
    "torch/lib/libc10.so",
    "torch/lib/libtorch.so",
    "torch/lib/libtorch_cpu.so",
    "torch/lib/libgomp.so.1",
    "nvidia/cu13/lib/libcudart.so.13",
    "nvidia/cu13/lib/libcupti.so.13",
];

/// The Linux wheels are CUDA builds: `libtorch_cpu` there loads two small CUDA libraries even for CPU work, which
/// is why their wheels are fetched as well. The rest of CUDA is not needed.
pub(super) const PLATFORMS: &[Platform] = &[
    Platform {
        os: "linux",
        arch: "x86_64",
        key: "2.13.0-cpu-x86_64",
        wheels: &[
            Wheel {
                requirement: "torch==2.13.0",
                file: "torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl",
                sha256: "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7",
                megabytes: 527,
            },
            Wheel {
                requirement: "nvidia-cuda-runtime==13.0.96",
                file: "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
                sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
                megabytes: 2,
            },
            Wheel {
                requirement: "nvidia-cuda-cupti==13.0.85",
                file: "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
                sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
                megabytes: 11,
            },
        ],
        needed: LINUX_FILES,
    },
    Platform {
        os: "linux",
        arch: "aarch64",
        key: "2.13.0-cpu-aarch64",
        wheels: &[
            Wheel {
                requirement: "torch==2.13.0",
                file: "torch-2.13.0-cp311-cp311-manylinux_2_28_aarch64.whl",
                sha256: "092790c696a760c729fd5722835f50b9d81fd7c8f141571f3f3cf4081a8f664c",
                megabytes: 427,
            },
            Wheel {
                requirement: "nvidia-cuda-runtime==13.0.96",
                file: "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_aarch64.manylinux_2_17_aarch64.whl",
                sha256: "ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55",
                megabytes: 2,
            },
            Wheel {
                requirement: "nvidia-cuda-cupti==13.0.85",
                file: "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_aarch64.whl",
                sha256: "796bd679890ee55fb14a94629b698b6db54bcfd833d391d5e94017dd9d7d3151",
                megabytes: 10,
            },
        ],
        needed: LINUX_FILES,
    },
    Platform {
        os: "macos",
        arch: "aarch64",
        key: "2.13.0-cpu-macos-arm64",
        wheels: &[Wheel {
            requirement: "torch==2.13.0",
            file: "torch-2.13.0-cp311-cp311-macosx_14_0_arm64.whl",
            sha256: "e76f9bcecc52b8ff711239a2f7547d5353df95878ab232f0773c1d95928b92f8",
            megabytes: 111,
        }],
        needed: &[
            "torch/include/ATen/ATen.h",
            "torch/include/torch/csrc/api/include/torch/torch.h",
            "torch/lib/libc10.dylib",
            "torch/lib/libtorch.dylib",
            "torch/lib/libtorch_cpu.dylib",
            "torch/lib/libomp.dylib",
        ],
    },
];

impl Platform {
    /// The platform this program runs on.
    pub fn current() -> Result<&'static Self> {
        Self::find(std::env::consts::OS, std::env::consts::ARCH)
    }

    fn find(os: &str, arch: &str) -> Result<&'static Self> {
        PLATFORMS.iter().find(|p| p.os == os && p.arch == arch).ok_or_else(|| {
            Error::environment(
                format!("no ready-made libtorch {VERSION} is known for {os} on {arch}"),
                [format!(
                    "unpack a libtorch {VERSION} yourself and set LIBTORCH to its folder, \
                     or install torch {VERSION} in Python and set LIBTORCH_USE_PYTORCH=1"
                )],
            )
        })
    }

    /// What to bring to a machine without network, one line each.
    pub fn shopping_list(&self) -> Vec<String> {
        let mut lines = vec![
            "bring these files of the Python package index, for example from a machine with pip:".to_owned(),
        ];
        for wheel in self.wheels {
            lines.push(format!("  {}", wheel.file));
            lines.push(format!("    SHA-256 {}", wheel.sha256));
            lines.push(format!(
                "    pip download --no-deps {} {}",
                wheel.pip_tags().join(" "),
                wheel.requirement
            ));
        }
        lines.push("and run: cargo xtask setup --from DIR".to_owned());
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_from_the_file_name() {
        let wheels = PLATFORMS[0].wheels;
        let torch = wheels[0].pip_tags().join(" ");
        assert!(torch.ends_with("--abi cp311 --platform manylinux_2_28_x86_64"), "{torch}");
        let runtime = wheels[1].pip_tags().join(" ");
        assert!(
            runtime.ends_with("--abi none --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64"),
            "{runtime}"
        );
    }

    #[test]
    fn the_table_is_well_formed() {
        for platform in PLATFORMS {
            assert!(platform.key.starts_with(VERSION), "{}", platform.key);
            for wheel in platform.wheels {
                assert!(
                    wheel.sha256.len() == 64
                        && wheel.sha256.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')),
                    "{}",
                    wheel.file
                );
                let (name, version) = wheel.requirement.split_once("==").unwrap();
                assert!(
                    wheel.file.starts_with(&format!("{}-{version}-", name.replace('-', "_"))),
                    "{}",
                    wheel.file
                );
            }
        }
    }

    #[test]
    fn the_version_is_the_one_the_lock_file_asks_for() {
        // tch 0.26 is made for libtorch 2.13: both change together or the build fails with C++ errors.
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
        assert!(
            lock.contains("name = \"torch-sys\"\nversion = \"0.26."),
            "torch-sys moved: update the table"
        );
        assert!(VERSION.starts_with("2.13."));
    }

    #[test]
    fn unknown_platforms_say_what_to_set() {
        let error = Platform::find("plan9", "vax").unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("plan9") && error.hints()[0].contains("LIBTORCH"));
    }

    #[test]
    fn the_shopping_list_names_every_file_and_hash() {
        for platform in PLATFORMS {
            let text = platform.shopping_list().join("\n");
            assert!(platform.wheels.iter().all(|w| text.contains(w.file) && text.contains(w.sha256)));
            assert!(text.contains("cargo xtask setup --from"));
        }
    }
}
