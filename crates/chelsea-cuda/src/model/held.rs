//! Logits that stay on the device: the likeliest come back, the whole row when somebody asks for it.

use super::CudaModel;
use crate::cache::Shared;
use crate::device::{Address, Buffer, Device, DeviceError};
use chelsea_model::device::HeldLogits;
use std::sync::{Arc, OnceLock};

/// A row of logits.
#[derive(Debug)]
struct Held {
    /// Where the row lies, and whom to tell where it cannot be read; none where it was read at once.
    row: Option<(Arc<Buffer>, Arc<Shared>)>,
    vocab: usize,
    likeliest: Vec<(u32, f32)>,
    all: OnceLock<Vec<f32>>,
}

impl HeldLogits for Held {
    fn likeliest(&self) -> &[(u32, f32)] {
        &self.likeliest
    }

    fn all(&self) -> &[f32] {
        self.all.get_or_init(|| {
            let Some((buffer, shared)) = &self.row else { return vec![f32::NAN; self.vocab] };
            buffer.values(self.vocab).unwrap_or_else(|error| {
                // The next pass says so.
                shared.note(error);
                vec![f32::NAN; self.vocab]
            })
        })
    }
}

/// Rows that logits are kept in, used again when nobody looks at them any more.
#[derive(Debug, Default)]
pub(super) struct Rows(Vec<Arc<Buffer>>);

impl Rows {
    fn take(&mut self, device: &Arc<dyn Device>, bytes: usize) -> Result<Arc<Buffer>, DeviceError> {
        let free = |row: &&Arc<Buffer>| Arc::strong_count(row) == 1 && row.bytes() == bytes;
        if let Some(row) = self.0.iter().find(free) {
            return Ok(Arc::clone(row));
        }
        let row = Arc::new(Buffer::new(device, bytes)?);
        self.0.push(Arc::clone(&row));
        Ok(row)
    }
}

impl CudaModel {
    /// Keeps the row of logits at `from`, of which these are the likeliest: pairs of a logit and its token, in any order.
    pub(super) fn hold(
        &self,
        rows: &mut Rows,
        from: Address,
        pairs: &[(f32, u32)],
    ) -> Result<Arc<dyn HeldLogits>, DeviceError> {
        let (device, vocab) = (&self.weights.device, self.weights.output.rows());
        let mut likeliest: Vec<(u32, f32)> =
            pairs.iter().filter(|pair| pair.1 != u32::MAX).map(|&(logit, token)| (token, logit)).collect();
        likeliest.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut held = Held { row: None, vocab, likeliest, all: OnceLock::new() };
        match rows.take(device, vocab * 4) {
            Ok(row) => {
                device.copy(from, row.at(), vocab * 4)?;
                held.row = Some((row, self.backend.shared().clone()));
            }
            // Where there is no room for it, the row is read at once.
            Err(DeviceError::Memory { .. }) => {
                let mut all = vec![0.0f32; vocab];
                device.read(from, bytemuck::cast_slice_mut(&mut all))?;
                held.all = OnceLock::from(all);
            }
            Err(error) => return Err(error),
        }
        Ok(Arc::new(held))
    }
}
