//! Lists that kernels read, gathered on the host and sent in one copy.

use crate::device::{Address, Buffer, Device, DeviceError};
use crate::kernels::PageLayout;
use std::sync::Arc;

/// What every list begins at a multiple of.
const ALIGNMENT: usize = 256;

/// Device memory that grows when more is asked for, and forgets what was in it then.
#[derive(Debug, Default)]
pub(crate) struct Growing(Option<Buffer>);

impl Growing {
    /// Room for `bytes` bytes.
    pub fn room(&mut self, device: &Arc<dyn Device>, bytes: usize) -> Result<Address, DeviceError> {
        match &self.0 {
            Some(buffer) if buffer.bytes() >= bytes => Ok(buffer.at()),
            _ => {
                self.0 = None;
                let buffer = Buffer::new(device, bytes.next_power_of_two().max(4096))?;
                let at = buffer.at();
                self.0 = Some(buffer);
                Ok(at)
            }
        }
    }

    /// Where it lies.
    pub fn at(&self) -> Option<Address> {
        self.0.as_ref().map(Buffer::at)
    }
}

/// Lists on their way to the device.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    bytes: Vec<u8>,
    buffer: Growing,
}

/// Slots of pages of one layout that are to hold no entry; offsets of the lists that say which.
#[derive(Debug, Clone)]
pub(crate) struct Clears {
    pub layout: PageLayout,
    /// Pages.
    pub count: usize,
    pub pages: Address,
    pub firsts: Address,
}

impl Tables {
    /// Begins anew.
    pub fn begin(&mut self) {
        self.bytes.clear();
    }

    /// Adds a list; returns where it begins, counted from the first.
    pub fn put<T: bytemuck::NoUninit>(&mut self, list: &[T]) -> Address {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytemuck::cast_slice(list));
        at as Address
    }

    /// Adds a list that is filled up with zeros, so that lists of about as many take the same room; returns how many it has then,
    /// and where it begins.
    pub fn put_padded<T: bytemuck::Pod>(&mut self, list: &[T]) -> (usize, Address) {
        let at = self.put(list);
        let count = padded(list.len());
        self.bytes.resize(self.bytes.len() + (count - list.len()) * size_of::<T>(), 0);
        (count, at)
    }

    /// Adds lists of slots that are to hold no entry.
    pub fn clears(&mut self, slots: &[(PageLayout, u32, u32)]) -> Vec<Clears> {
        let mut layouts: Vec<PageLayout> = Vec::new();
        for (layout, ..) in slots {
            if !layouts.contains(layout) {
                layouts.push(*layout);
            }
        }
        let of_layout = |layout: PageLayout| {
            let of_layout = slots.iter().filter(|slot| slot.0 == layout);
            let (pages, firsts): (Vec<u32>, Vec<u32>) = of_layout.map(|&(_, page, first)| (page, first)).unzip();
            Clears { layout, count: pages.len(), pages: self.put(&pages), firsts: self.put(&firsts) }
        };
        layouts.into_iter().map(of_layout).collect()
    }

    /// Whether the lists are those of `other`.
    pub fn holds_what(&self, other: &Tables) -> bool {
        self.bytes == other.bytes
    }

    /// Sends all lists; returns where the first begins.
    pub fn send(&mut self, device: &Arc<dyn Device>) -> Result<Address, DeviceError> {
        let at = self.buffer.room(device, self.bytes.len())?;
        if !self.bytes.is_empty() {
            device.write(at, &self.bytes)?;
        }
        Ok(at)
    }
}

/// The room of a list: up to a quarter more than it has, so that its length may change for a while before its room does.
fn padded(len: usize) -> usize {
    len.next_multiple_of((len.next_power_of_two() / 8).max(16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_given_up_to_a_quarter_more_room_or_sixteen() {
        assert_eq!([0, 1, 16, 17, 128, 129, 1000].map(padded), [0, 16, 16, 32, 128, 160, 1024]);
        assert!((129..5000).all(|len| (len..=len + len / 4).contains(&padded(len))));
    }
}
