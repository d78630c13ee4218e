//! The header: everything about a cache but its entries.
//!
//! Numbers are little-endian, texts are a length (`u32`) and UTF-8. The first 64 bytes, the prelude, are
//!
//! | bytes | content |
//! |---|---|
//! | 0..8 | [`MAGIC`] |
//! | 8..12 | [`VERSION`] |
//! | 12..16 | zero |
//! | 16..24 | bytes of the header, prelude and padding included: a multiple of 64 |
//! | 24..32 | bytes of the whole file |
//! | 32..40 | XXH3 of the header without these eight bytes |
//! | 40..64 | zero |
//!
//! and [`Header::encode`] shows what follows, in order.

use super::fields::{Reader, Writer};
use super::layers::{check_layers, decode_layers, encode_layers};
use super::statistics::Found;
use super::{ALIGN, MAX_NOTE, SnapshotError};
use crate::cache::Saved;
use crate::form::Form;
use crate::offset::Offset;
use crate::query::QueryPower;
use crate::{Budget, CacheConfig, CacheShape, Dims, Dtype, LayerSpec, MAX_TOKENS, PAGE, Pool};
use xxhash_rust::xxh3::Xxh3;

/// How a snapshot begins; the first byte is no ASCII, so that no text is taken for one.
pub(super) const MAGIC: [u8; 8] = *b"\x89CHELSEA";
/// The format written, and the only one read.
pub(super) const VERSION: u32 = 6;
/// Says that entries of a share are clustered once. There was another way, in files of earlier versions.
const CLUSTERED_ONCE: u32 = 0;
/// Bytes of the prelude.
pub(super) const PRELUDE: usize = 64;

/// Most bytes of a header, far above what the other limits allow it to grow to.
const MAX_HEADER: u64 = 1 << 30;
/// Most bytes of a policy's specification.
const MAX_POLICY: u64 = 4096;

/// What the header says of one head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct HeadRecord {
    /// Number of entries.
    pub len: usize,
    /// Entries at the front that were clustered before.
    pub frozen: usize,
    /// Mean power of values, once it was found out.
    pub value_scale: Option<f32>,
    /// XXH3 of the head's block.
    pub hash: u64,
}

/// The header of a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Header {
    pub fingerprint: [u8; 16],
    pub shape: CacheShape,
    pub dtype: Dtype,
    pub sinks: usize,
    pub window: usize,
    pub budget: Budget,
    pub decode_block: usize,
    pub policy: String,
    pub compacted_at: usize,
    pub expected_tokens: usize,
    pub recent: usize,
    pub tokens: Vec<u32>,
    pub note: String,
    /// One for each KV head of the shape.
    pub heads: Vec<HeadRecord>,
    /// Sums and samples of [`QueryPower`].
    pub power: Option<(Vec<f64>, Vec<u64>)>,
    /// Other statistics, which have a section of their own.
    pub found: Found,
    /// What keys are stored divided by, one for each head, where they are stored in integers; else none at all.
    pub forms: Vec<Option<Form>>,
}

/// What the prelude says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prelude {
    /// Bytes of the header.
    pub header: u64,
    /// Bytes of the file.
    pub file: u64,
    hash: u64,
}

impl Prelude {
    /// Reads the prelude of a file of `have` bytes from its first bytes.
    pub(super) fn decode(bytes: &[u8], have: u64) -> Result<Self, SnapshotError> {
        let common = bytes.len().min(MAGIC.len());
        if common == 0 || bytes[..common] != MAGIC[..common] {
            return Err(SnapshotError::NotASnapshot);
        }
        if bytes.len() < PRELUDE {
            return Err(SnapshotError::Truncated { have, need: PRELUDE as u64 });
        }
        let mut fields = Reader::new(&bytes[MAGIC.len()..PRELUDE]);
        let found = fields.u32()?;
        if found != VERSION {
            return Err(SnapshotError::Version { found, known: VERSION });
        }
        let zero = fields.u32()?;
        let prelude = Prelude { header: fields.u64()?, file: fields.u64()?, hash: fields.u64()? };
        if have < prelude.file {
            return Err(SnapshotError::Truncated { have, need: prelude.file });
        }
        if have > prelude.file {
            return Err(SnapshotError::TooLong { have, need: prelude.file });
        }
        limit("the size of the header", prelude.header, MAX_HEADER)?;
        let aligned = prelude.header.is_multiple_of(ALIGN as u64);
        if zero != 0 || !aligned || prelude.header < PRELUDE as u64 || prelude.header > prelude.file {
            return Err(SnapshotError::HeaderCorrupted);
        }
        Ok(prelude)
    }
}

/// XXH3 of the header `bytes`, all but the eight that hold it.
fn hash(bytes: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&bytes[..32]);
    hash.update(&bytes[40..]);
    hash.digest()
}

/// The size of the file that a header is of, as its prelude says.
pub(super) fn file_size(header: &[u8]) -> u64 {
    header[24..32].iter().rev().fold(0, |size, &byte| size << 8 | u64::from(byte))
}

/// Notes the size of the file `bytes` in its prelude.
pub(super) fn set_file_size(bytes: &mut [u8]) {
    let size = (bytes.len() as u64).to_le_bytes();
    bytes[24..32].copy_from_slice(&size);
}

/// Puts the checksum of the header `bytes` where it belongs.
pub(super) fn seal(bytes: &mut [u8]) {
    let hash = hash(bytes).to_le_bytes();
    bytes[32..40].copy_from_slice(&hash);
}

/// An error if `value` is above `most`.
pub(super) fn limit(field: &'static str, value: u64, most: u64) -> Result<(), SnapshotError> {
    if value > most { Err(SnapshotError::TooLarge { field, value, most }) } else { Ok(()) }
}

/// An error that says `what`, unless `fine`.
pub(super) fn ensure(fine: bool, what: impl FnOnce() -> String) -> Result<(), SnapshotError> {
    if fine { Ok(()) } else { Err(SnapshotError::Inconsistent(what())) }
}

impl Header {
    /// The settings that the header keeps, under `policy`.
    pub(super) fn config(&self, policy: std::sync::Arc<dyn crate::Policy>) -> CacheConfig {
        CacheConfig {
            shape: self.shape.clone(),
            dtype: self.dtype,
            sinks: self.sinks,
            window: self.window,
            policy,
            budget: self.budget,
            decode_block: self.decode_block,
            pool: Pool::unlimited(),
            backend: std::sync::Arc::new(crate::Cpu),
        }
    }

    /// The state that the header keeps.
    pub(super) fn saved(&self) -> Saved {
        let power = self.power.clone();
        Saved {
            tokens: self.tokens.len(),
            compacted_at: self.compacted_at,
            expected_tokens: self.expected_tokens,
            recent: self.recent,
            frozen: self.heads.iter().map(|head| head.frozen).collect(),
            value_scale: self.heads.iter().map(|head| head.value_scale).collect(),
            query_power: power.map(|(sums, samples)| QueryPower::from_parts(self.shape.clone(), sums, samples)),
        }
    }

    /// Sizes of the entries of head `g`.
    pub(super) fn dims(&self, g: usize) -> Dims {
        self.shape.layer(self.shape.layer_of(g)).dims()
    }

    /// Bytes of the keys, values and scales of a page of head `g`.
    pub(super) fn page_bytes(&self, g: usize) -> u64 {
        // Sizes were checked to be far too small to overflow.
        self.dtype.bytes(PAGE, self.dims(g)) as u64
    }

    /// Bytes of the block of head `g` if it has `len` entries: its pages, counts and positions.
    pub(super) fn block_bytes(&self, g: usize, len: usize) -> u64 {
        let len = len as u64;
        (len.div_ceil(PAGE as u64) * self.page_bytes(g) + 8 * len).next_multiple_of(ALIGN as u64)
    }

    /// Entries of each head that statistics have a number for: none of heads that do not grow.
    pub(super) fn clustered_lens(&self) -> impl Iterator<Item = usize> {
        let layers = self.shape.layer_of_heads();
        self.heads.iter().zip(layers).map(|(head, (_, layer))| if layer.grows() { head.len } else { 0 })
    }

    /// Bytes of the section of statistics.
    pub(super) fn found_bytes(&self) -> u64 {
        self.found.bytes(&self.shape, self.clustered_lens().map(|len| len as u64).sum())
    }

    /// Bytes of everything behind the header.
    fn rest_bytes(&self) -> u64 {
        let blocks = self.heads.iter().enumerate().map(|(g, head)| self.block_bytes(g, head.len));
        blocks.sum::<u64>() + self.found_bytes()
    }

    /// Holds the header to what every snapshot keeps. What passes can be written, and was not made up
    /// carelessly.
    pub(super) fn check(&self) -> Result<(), SnapshotError> {
        check_layers(self.shape.layers())?;
        limit("sinks", self.sinks as u64, MAX_TOKENS as u64)?;
        limit("the recent window", self.window as u64, MAX_TOKENS as u64)?;
        limit("tokens", self.tokens.len() as u64, MAX_TOKENS as u64)?;
        limit("the block of decoding", self.decode_block as u64, MAX_TOKENS as u64)?;
        limit("the tokens expected", self.expected_tokens as u64, MAX_TOKENS as u64)?;
        limit("the latest entries", self.recent as u64, MAX_TOKENS as u64)?;
        limit("the last queries", self.found.window as u64, MAX_TOKENS as u64)?;
        limit("the size of the note", self.note.len() as u64, MAX_NOTE as u64)?;
        limit("the size of the policy", self.policy.len() as u64, MAX_POLICY)?;
        let tokens = self.tokens.len();
        ensure(self.compacted_at <= tokens, || format!("last clustered at {} of {tokens} tokens", self.compacted_at))?;
        ensure(self.heads.len() == self.shape.heads(), || {
            format!("{} heads in a cache of {}", self.heads.len(), self.shape.heads())
        })?;
        for (g, head) in self.heads.iter().enumerate() {
            let HeadRecord { len, frozen, value_scale, .. } = *head;
            ensure(len <= tokens, || format!("head {g} has {len} entries for {tokens} tokens"))?;
            ensure(frozen <= len, || format!("head {g} has {len} entries, {frozen} of them clustered"))?;
            ensure(value_scale.is_none_or(|x| x.is_finite() && x >= 0.0), || {
                format!("head {g} has values of power {value_scale:?}")
            })?;
        }
        if let Some((sums, samples)) = &self.power {
            let lengths = sums.len() == self.shape.all().keys && samples.len() == self.shape.layers().len();
            ensure(lengths, || "the statistics of queries have another shape".into())?;
            ensure(sums.iter().all(|x| x.is_finite() && *x >= 0.0), || {
                "the statistics of queries are not finite".into()
            })?;
            let most = u64::MAX / self.shape.layers().iter().map(|layer| layer.q_heads as u64).max().unwrap_or(1);
            ensure(samples.iter().all(|&n| n <= most), || "more queries than can be counted".into())?;
        }
        if let Some(known) = &self.found.importance {
            ensure(known.len() == self.heads.len(), || "a second pass over a cache with other heads".into())?;
            for (g, (&known, head)) in known.iter().zip(&self.heads).enumerate() {
                ensure(known <= head.len, || {
                    format!("a second pass over {known} of {} entries of head {g}", head.len)
                })?;
            }
        }
        Ok(())
    }

    /// The header as bytes, with the size of the file and the checksum, which is as long as it is.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(&MAGIC);
        out.u32(VERSION);
        out.bytes(&[0; PRELUDE - 12]);
        out.bytes(&self.fingerprint);
        encode_layers(self.shape.layers(), &mut out);
        out.u32(match self.dtype {
            Dtype::F32 => 0,
            Dtype::F16 => 1,
            Dtype::Bf16 => 2,
            Dtype::Q8 => 3,
            Dtype::K8V4 => 4,
            Dtype::K5V4 => 5,
        });
        out.u32(CLUSTERED_ONCE);
        let (kind, amount) = match self.budget {
            Budget::EntryFraction(ratio) => (0, u64::from(ratio.to_bits())),
            Budget::Entries(entries) => (1, entries as u64),
            Budget::Bytes(bytes) => (2, bytes as u64),
            Budget::ByteFraction(share) => (3, u64::from(share.to_bits())),
        };
        out.u32(kind);
        out.u64(amount);
        let sizes = [self.sinks, self.window, self.decode_block, self.compacted_at, self.expected_tokens, self.recent];
        sizes.iter().for_each(|&n| out.u64(n as u64));
        out.text(&self.policy);
        out.text(&self.note);
        out.u32(self.tokens.len() as u32);
        self.tokens.iter().for_each(|&id| out.u32(id));
        for head in &self.heads {
            out.u32(head.len as u32);
            out.u32(head.frozen as u32);
            out.u32(u32::from(head.value_scale.is_some()));
            out.f32(head.value_scale.unwrap_or(0.0));
            out.u64(head.hash);
        }
        out.u32(u32::from(self.power.is_some()));
        if let Some((sums, samples)) = &self.power {
            sums.iter().for_each(|&x| out.u64(x.to_bits()));
            samples.iter().for_each(|&n| out.u64(n));
        }
        self.found.encode(&mut out);
        for form in &self.forms {
            out.u32(u32::from(form.is_some()));
            form.iter().flat_map(Form::sizes).for_each(|&x| out.f32(x));
            form.iter().filter_map(Form::offset).flat_map(Offset::mean).for_each(|&x| out.f32(x));
        }
        let mut bytes = out.into_bytes();
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        let header = bytes.len() as u64;
        bytes[16..24].copy_from_slice(&header.to_le_bytes());
        bytes[24..32].copy_from_slice(&(header + self.rest_bytes()).to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// Reads a header from `bytes`, which are all of it, and checks it.
    pub(super) fn decode(bytes: &[u8], prelude: &Prelude) -> Result<Self, SnapshotError> {
        if hash(bytes) != prelude.hash {
            return Err(SnapshotError::HeaderCorrupted);
        }
        let mut fields = Reader::new(&bytes[PRELUDE..]);
        let fingerprint = fields.array()?;
        let shape = decode_layers(&mut fields)?;
        let dtype = match fields.u32()? {
            0 => Dtype::F32,
            1 => Dtype::F16,
            2 => Dtype::Bf16,
            3 => Dtype::Q8,
            4 => Dtype::K8V4,
            5 => Dtype::K5V4,
            other => return Err(SnapshotError::Inconsistent(format!("there is no storage type {other}"))),
        };
        match fields.u32()? {
            CLUSTERED_ONCE => {}
            other => return Err(SnapshotError::Inconsistent(format!("there is no schedule {other} any more"))),
        }
        let (kind, amount) = (fields.u32()?, fields.u64()?);
        let budget = match (kind, u32::try_from(amount), usize::try_from(amount)) {
            (0, Ok(bits), _) => Budget::EntryFraction(f32::from_bits(bits)),
            (1, _, Ok(entries)) => Budget::Entries(entries),
            (2, _, Ok(bytes)) => Budget::Bytes(bytes),
            (3, Ok(bits), _) => Budget::ByteFraction(f32::from_bits(bits)),
            _ => return Err(SnapshotError::Inconsistent(format!("there is no budget {amount} of kind {kind}"))),
        };
        let sinks = fields.size64("sinks")?;
        let window = fields.size64("the recent window")?;
        let decode_block = fields.size64("the block of decoding")?;
        let compacted_at = fields.size64("the tokens clustered")?;
        let expected_tokens = fields.size64("the tokens expected")?;
        let recent = fields.size64("the latest entries")?;
        let policy = fields.text()?;
        let note = fields.text()?;
        let tokens = fields.list(4, |f| f.u32())?;
        let mut header = Header {
            fingerprint,
            shape,
            dtype,
            sinks,
            window,
            budget,
            decode_block,
            policy,
            compacted_at,
            expected_tokens,
            recent,
            tokens,
            note,
            heads: Vec::new(),
            power: None,
            found: Found::default(),
            forms: Vec::new(),
        };
        let shape = header.shape.clone();
        header.heads = fields.many(shape.heads(), 24, |fields| {
            let (len, frozen) = (fields.size32()?, fields.size32()?);
            let (known, scale) = (fields.flag()?, fields.f32()?);
            Ok(HeadRecord { len, frozen, value_scale: known.then_some(scale), hash: fields.u64()? })
        })?;
        if fields.flag()? {
            let sums = fields.many(shape.all().keys, 8, |f| f.u64().map(f64::from_bits))?;
            header.power = Some((sums, fields.many(shape.layers().len(), 8, |f| f.u64())?));
        }
        header.found = Found::decode(&mut fields, &shape)?;
        if dtype.scaled() {
            let forms = (0..shape.heads()).map(|g| form(&mut fields, g, dtype, shape.layer(shape.layer_of(g))));
            header.forms = forms.collect::<Result<_, _>>()?;
        }
        let padding = fields.rest();
        ensure(padding.len() < ALIGN && padding.iter().all(|&byte| byte == 0), || "the header is too long".into())?;
        header.check()?;
        let (need, have) = (prelude.header + header.rest_bytes(), prelude.file);
        ensure(need == have, || format!("its heads and statistics take {need} bytes and the file has {have}"))?;
        Ok(header)
    }
}

/// How the keys of head `g` are stored, if not as they are.
fn form(fields: &mut Reader<'_>, g: usize, dtype: Dtype, layer: &LayerSpec) -> Result<Option<Form>, SnapshotError> {
    if !fields.flag()? {
        return Ok(None);
    }
    let sizes = fields.many(layer.key_dim, 4, |f| f.f32())?;
    let mean = if dtype.rotated() { Some(fields.many(layer.key_dim, 4, |f| f.f32())?) } else { None };
    let offset = mean.map(|mean| Offset::from_mean(mean.into(), &layer.rotary));
    let form = Form::from_parts(sizes.into(), offset);
    ensure(form.is_some(), || format!("the keys of head {g} are divided by zero or by what is no number"))?;
    Ok(form)
}
