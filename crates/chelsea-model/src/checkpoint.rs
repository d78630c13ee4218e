//! A model on disk, opened but not loaded: configuration and table of tensors, whatever the container.
//!
//! Tensors go by the names they have in GGUF files (`blk.0.attn_q.weight`), also when they come from
//! safetensors. Shapes are outermost first: `[rows, cols]` for a matrix.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use chelsea_kv::Mapped;
use xxhash_rust::xxh3::Xxh3;

use crate::arch::canonical_name;
use crate::config::{Config, ConfigError, GgufDescription};
use crate::error::ModelError;
use crate::files::gguf::{Gguf, Split, is_later_part};
use crate::files::{TensorEntry, safetensors};

/// Divisors of the rotary frequencies that Llama 3 files carry as a tensor.
const ROPE_DIVISORS: &str = "rope_freqs.weight";
/// The two sets of them that Phi-3 files carry.
const LONG_ROPE: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];
/// Tensors that belong to the configuration.
pub(crate) const OF_CONFIG: [&str; 3] = [ROPE_DIVISORS, LONG_ROPE[0], LONG_ROPE[1]];

/// Model files, mapped into memory.
#[derive(Debug)]
pub struct ModelFile {
    path: PathBuf,
    files: Vec<Mapped>,
    gguf: Option<Gguf>,
    config: Config,
    tensors: Vec<TensorEntry>,
    by_name: HashMap<String, usize>,
}

impl ModelFile {
    /// Opens a `.gguf` file, a `.safetensors` file beside its `config.json`, or a folder with one of them. Of a GGUF
    /// model that was split, any part opens all of them. Reads headers only.
    ///
    /// # Errors
    /// [`ModelError`] for files that are missing, damaged, or of an unsupported kind.
    pub fn open(path: &Path) -> Result<ModelFile, ModelError> {
        let metadata = fs::metadata(path).map_err(|source| ModelError::Io { path: path.to_path_buf(), source })?;
        if metadata.is_dir() {
            return ModelFile::open_folder(path);
        }
        if has_extension(path, "safetensors") {
            let folder = path.parent().unwrap_or(Path::new("."));
            return ModelFile::open_safetensors(path, folder);
        }
        ModelFile::open_gguf(path)
    }

    fn open_folder(path: &Path) -> Result<ModelFile, ModelError> {
        if path.join(safetensors::SINGLE).is_file() || path.join(safetensors::INDEX).is_file() {
            return ModelFile::open_safetensors(path, path);
        }
        let entries = fs::read_dir(path).map_err(|source| ModelError::Io { path: path.to_path_buf(), source })?;
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|file| has_extension(file, "gguf") && !is_later_part(file))
            .collect();
        match (found.pop(), found.len()) {
            (Some(file), 0) => ModelFile::open_gguf(&file),
            (None, _) => Err(ModelError::NotAModel {
                path: path.to_path_buf(),
                why: format!(
                    "the folder holds neither {}, {}, nor a .gguf file",
                    safetensors::SINGLE,
                    safetensors::INDEX
                ),
            }),
            (Some(_), more) => Err(ModelError::NotAModel {
                path: path.to_path_buf(),
                why: format!("the folder holds {} .gguf files; name one of them", more + 1),
            }),
        }
    }

    fn open_gguf(path: &Path) -> Result<ModelFile, ModelError> {
        let parts = gguf_parts(path)?;
        let tensors: Vec<TensorEntry> = parts.iter().enumerate().flat_map(|(file, part)| part.entries(file)).collect();
        let vector = |name: &str| match tensors.iter().find(|tensor| tensor.canonical == name) {
            Some(tensor) => decode(tensor, data_of(tensor, &parts[tensor.file].mapped)).map(Some),
            None => Ok(None),
        };
        let divisors = vector(ROPE_DIVISORS)?;
        let long_rope = vector(LONG_ROPE[0])?.zip(vector(LONG_ROPE[1])?);
        let (mut headers, files): (Vec<Gguf>, Vec<Mapped>) = parts.into_iter().map(|p| (p.gguf, p.mapped)).unzip();
        let vocab = headers.iter().find_map(Gguf::embedding_rows);
        // Only the first part says what the model is.
        let gguf = headers.swap_remove(0);
        let description = GgufDescription { vocab, divisors, long_rope };
        let config = Config::from_gguf_file(&gguf.metadata, description)
            .map_err(|source| ModelError::Config { path: path.to_path_buf(), source })?;
        ModelFile::assemble(path, files, Some(gguf), config, tensors)
    }

    fn open_safetensors(path: &Path, folder: &Path) -> Result<ModelFile, ModelError> {
        let config_path = folder.join("config.json");
        let text =
            fs::read_to_string(&config_path).map_err(|source| ModelError::Io { path: config_path.clone(), source })?;
        let config =
            Config::from_json(&text).map_err(|source| ModelError::Config { path: config_path.clone(), source })?;
        let mut files = Vec::new();
        let mut tensors = safetensors::Tensors::default();
        for (index, weights) in safetensors::weight_files(path)?.into_iter().enumerate() {
            let mapped = map(&weights)?;
            tensors.read(&weights, &mapped, index, |name| canonical_name(config.architecture, name))?;
            files.push(mapped);
        }
        ModelFile::assemble(path, files, None, config, tensors.finish(path)?)
    }

    fn assemble(
        path: &Path,
        files: Vec<Mapped>,
        gguf: Option<Gguf>,
        config: Config,
        tensors: Vec<TensorEntry>,
    ) -> Result<ModelFile, ModelError> {
        let mut by_name = HashMap::new();
        for (index, tensor) in tensors.iter().enumerate() {
            if by_name.insert(tensor.canonical.clone(), index).is_some() {
                return Err(ModelError::Config {
                    path: path.to_path_buf(),
                    source: ConfigError::Invalid(format!("tensor `{}` appears twice", tensor.name)),
                });
            }
        }
        Ok(ModelFile { path: path.to_path_buf(), files, gguf, config, tensors, by_name })
    }

    /// What the model is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The same model, to be used for texts of up to `tokens` tokens: see [`Config::for_context`].
    #[must_use]
    pub fn for_context(self, tokens: usize) -> ModelFile {
        ModelFile { config: self.config.for_context(tokens), ..self }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Header of the GGUF file, or of the first of several, with the tokenizer's metadata; `None` for safetensors.
    pub fn gguf(&self) -> Option<&Gguf> {
        self.gguf.as_ref()
    }

    /// The folder of a safetensors model, with its `tokenizer.json`; `None` for GGUF.
    pub fn folder(&self) -> Option<&Path> {
        match (&self.gguf, self.path.is_dir()) {
            (Some(_), _) => None,
            (None, true) => Some(&self.path),
            (None, false) => self.path.parent(),
        }
    }

    /// All tensors.
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.tensors
    }

    /// The tensor of a canonical name.
    pub fn tensor(&self, canonical: &str) -> Option<&TensorEntry> {
        self.by_name.get(canonical).map(|&index| &self.tensors[index])
    }

    /// Bytes of a tensor; of one whose scales lie elsewhere, its blocks.
    pub(crate) fn data(&self, tensor: &TensorEntry) -> &[u8] {
        data_of(tensor, &self.files[tensor.file])
    }

    /// Scales of a tensor that lie beside its blocks.
    pub(crate) fn scales(&self, tensor: &TensorEntry) -> Option<&[u8]> {
        let scales = tensor.scales?;
        Some(&self.files[scales.file][scales.offset..scales.offset + scales.bytes])
    }

    /// Tells the system that a tensor's bytes will not be read again.
    pub(crate) fn release(&self, tensor: &TensorEntry) {
        self.files[tensor.file].release(tensor.offset..tensor.offset + tensor.own_bytes());
    }

    /// Identifies the weights: a hash of the sizes, the rotary frequencies, the table of tensors and three
    /// samples of each tensor's data. The same for every copy of the same file, wherever it lies.
    pub fn fingerprint(&self) -> [u8; 16] {
        const SAMPLE: usize = 256;
        let mut hash = Xxh3::new();
        hash_config(&mut hash, &self.config);
        for tensor in &self.tensors {
            hash.update(tensor.canonical.as_bytes());
            hash.update(tensor.ty.name().as_bytes());
            for &size in &tensor.shape {
                hash.update(&(size as u64).to_le_bytes());
            }
            for data in [Some(self.data(tensor)), self.scales(tensor)].into_iter().flatten() {
                let length = data.len().min(SAMPLE);
                let spare = data.len() - length;
                for start in [0, spare / 2, spare] {
                    hash.update(&data[start..start + length]);
                }
            }
        }
        hash.digest128().to_le_bytes()
    }
}

/// What a model of one kind of layers is known by is that layer; others add whatever differs from it.
fn hash_config(hash: &mut Xxh3, config: &Config) {
    let first = &config.layers[0];
    let inner = first.feed_forward.inner();
    hash.update(config.architecture.name().as_bytes());
    for size in [config.layers.len(), config.hidden, inner, first.q_heads, first.kv_heads, first.head_dim] {
        hash.update(&(size as u64).to_le_bytes());
    }
    let shape = config.cache_shape();
    let rotary = &shape.layers()[0].rotary;
    for number in rotary.inv_freq.iter().chain([&rotary.scale, &config.norm_eps]) {
        hash.update(&number.to_le_bytes());
    }
    for (index, (layer, spec)) in config.layers.iter().zip(shape.layers()).enumerate() {
        let plain_scale = 1.0 / (layer.head_dim as f32).sqrt();
        if layer == first && layer.window.is_none() && layer.scale == plain_scale {
            continue;
        }
        hash.update(&(index as u64).to_le_bytes());
        for size in [layer.q_heads, layer.kv_heads, layer.head_dim, layer.window.unwrap_or(0)] {
            hash.update(&(size as u64).to_le_bytes());
        }
        for number in spec.rotary.inv_freq.iter().chain([&spec.rotary.scale, &layer.scale]) {
            hash.update(&number.to_le_bytes());
        }
        hash.update(format!("{:?}", layer.feed_forward).as_bytes());
    }
    if config.embedding_scale != 1.0 {
        hash.update(&config.embedding_scale.to_le_bytes());
    }
}

/// A GGUF file: a model, or a part of one.
struct GgufFile {
    gguf: Gguf,
    mapped: Mapped,
    split: Option<Split>,
}

impl GgufFile {
    fn open(path: &Path) -> Result<GgufFile, ModelError> {
        let mapped = map(path)?;
        let broken = |source| ModelError::Gguf { path: path.to_path_buf(), source };
        let gguf = Gguf::parse(&mapped).map_err(broken)?;
        let split = Split::of(&gguf).map_err(broken)?;
        Ok(GgufFile { gguf, mapped, split })
    }

    /// The tensors, of the model's file number `file`.
    fn entries(&self, file: usize) -> impl Iterator<Item = TensorEntry> {
        self.gguf.tensors().iter().map(move |tensor| TensorEntry {
            name: tensor.name.clone(),
            canonical: tensor.name.clone(),
            // Sizes and offsets lie inside the mapped file, so they fit.
            shape: tensor.dims.iter().rev().map(|&dim| dim as usize).collect(),
            ty: tensor.ty,
            bytes: tensor.bytes as usize,
            file,
            offset: tensor.offset as usize,
            scales: None,
        })
    }
}

/// The model's GGUF files, in order, given any of them.
fn gguf_parts(path: &Path) -> Result<Vec<GgufFile>, ModelError> {
    let given = GgufFile::open(path)?;
    let Some(split) = given.split else { return Ok(vec![given]) };
    let Split { part, parts, .. } = split;
    let wrong = |why: String| ModelError::Split { path: path.to_path_buf(), part, parts, why };
    let (mut given, mut all) = (Some(given), Vec::new());
    for number in 0..parts {
        let Some(file) = split.file_of(path, number) else {
            return Err(wrong(format!("its name should end in -{:05}-of-{parts:05}.gguf", u64::from(part) + 1)));
        };
        let opened = match given.take_if(|_| number == part) {
            Some(given) => given,
            None if !file.is_file() => return Err(wrong(format!("{} is missing", file.display()))),
            None => GgufFile::open(&file)?,
        };
        if opened.split.is_none_or(|other| (other.part, other.parts) != (number, parts)) {
            return Err(wrong(format!("{} is not part {} of it", file.display(), number + 1)));
        }
        all.push(opened);
    }
    let found: u64 = all.iter().map(|part| part.gguf.tensors().len() as u64).sum();
    match split.tensors {
        Some(announced) if announced != found => {
            Err(wrong(format!("the parts have {found} tensors together and should have {announced}")))
        }
        _ => Ok(all),
    }
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(wanted))
}

fn map(path: &Path) -> Result<Mapped, ModelError> {
    Mapped::open(path).map_err(|source| ModelError::Io { path: path.to_path_buf(), source })
}

fn data_of<'a>(tensor: &TensorEntry, file: &'a [u8]) -> &'a [u8] {
    // Both readers have checked that the range lies inside the file.
    &file[tensor.offset..tensor.offset + tensor.own_bytes()]
}

/// The values of a vector: norms, biases, rotary divisors. All of them must be finite.
pub(crate) fn decode(tensor: &TensorEntry, data: &[u8]) -> Result<Vec<f32>, ModelError> {
    let mut values = vec![0.0; tensor.shape.iter().product()];
    chelsea_linear::dequantize(tensor.ty, data, &mut values)
        .map_err(|source| ModelError::Linear { name: tensor.name.clone(), source })?;
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(ModelError::NotFinite(tensor.name.clone())),
    }
}
