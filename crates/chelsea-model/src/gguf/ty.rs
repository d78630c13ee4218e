//! Block types, until chelsea-linear has them.
/// A block type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType(u32, &'static str, usize, usize);
const ALL: &[GgmlType] = &[
    GgmlType(0, "F32", 1, 4),
    GgmlType(1, "F16", 1, 2),
    GgmlType(2, "Q4_0", 32, 18),
    GgmlType(3, "Q4_1", 32, 20),
    GgmlType(6, "Q5_0", 32, 22),
    GgmlType(7, "Q5_1", 32, 24),
    GgmlType(8, "Q8_0", 32, 34),
    GgmlType(10, "Q2_K", 256, 84),
    GgmlType(11, "Q3_K", 256, 110),
    GgmlType(12, "Q4_K", 256, 144),
    GgmlType(13, "Q5_K", 256, 176),
    GgmlType(14, "Q6_K", 256, 210),
    GgmlType(30, "BF16", 1, 2),
];
#[allow(missing_docs)]
impl GgmlType {
    pub fn from_id(id: u32) -> Option<Self> {
        ALL.iter().copied().find(|t| t.0 == id)
    }
    pub fn name(self) -> &'static str {
        self.1
    }
    pub fn block_len(self) -> usize {
        self.2
    }
    pub fn block_bytes(self) -> usize {
        self.3
    }
}
