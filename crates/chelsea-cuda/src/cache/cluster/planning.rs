//! What a plan is made of: heads with candidates, in groups that share kernels, and the stretches that those are cut into.

use super::{ALIGNMENT, MOST_STRETCHES};
use crate::cache::head::DeviceHead;
use crate::kernels::PageLayout;
use crate::kernels::cluster::{PlannedHead, Stretch, row_stride};
use chelsea_kv::backend::{Candidates, Clustering};
use chelsea_kv::{PAGE, Rotary};
use std::ops::Range;

/// Heads whose rows are made by the same kernels with the same arguments.
pub struct Group<'c> {
    pub layout: PageLayout,
    pub rotary: &'c Rotary,
    /// Its heads, by their places among those that plans are made for.
    pub members: Vec<usize>,
    /// Which of all planned heads, and of all stretches, are its own.
    pub heads: Range<usize>,
    pub stretches: Range<usize>,
    /// Numbers of a row.
    pub numbers: usize,
    /// Its stretches, some at a time.
    pub batches: Vec<Range<usize>>,
}

impl Group<'_> {
    /// Bytes of a row with all that belongs to it: its numbers, its weight and its length.
    fn row_bytes(&self) -> usize {
        2 * row_stride(self.numbers) + 8
    }
}

/// Everything that kernels read to make a plan.
pub struct Planning<'c> {
    pub groups: Vec<Group<'c>>,
    pub heads: Vec<PlannedHead>,
    /// Which of the store's heads each is.
    pub places: Vec<usize>,
    pub stretches: Vec<Stretch>,
    pub pages: Vec<u32>,
    pub candidates: usize,
    pub starts: usize,
    pub members: usize,
}

impl<'c> Planning<'c> {
    /// Everything but how stretches are taken together.
    pub fn of(clustering: &'c Clustering<'_>, heads: &[DeviceHead]) -> Self {
        let mut planning = Planning {
            groups: groups(clustering, heads),
            heads: Vec::new(),
            places: Vec::new(),
            stretches: Vec::new(),
            pages: Vec::new(),
            candidates: 0,
            starts: 0,
            members: 0,
        };
        let lens: Vec<usize> = clustering.heads.iter().map(|head| head.range.len()).collect();
        let mut cut: Vec<Vec<(Range<usize>, usize)>> = vec![Vec::new(); lens.len()];
        for (i, range, least) in clustering.recipe.stretches_of(&lens, clustering.target) {
            cut[i].push((range, least));
        }
        for mut group in std::mem::take(&mut planning.groups) {
            (group.heads.start, group.stretches.start) = (planning.heads.len(), planning.stretches.len());
            for &i in &group.members {
                planning.add(&clustering.heads[i], heads, &cut[i], group.heads.start);
            }
            (group.heads.end, group.stretches.end) = (planning.heads.len(), planning.stretches.len());
            planning.groups.push(group);
        }
        planning
    }

    fn add(&mut self, of: &Candidates<'_>, heads: &[DeviceHead], cut: &[(Range<usize>, usize)], first_head: usize) {
        let (head, Range { start, end }) = (&heads[of.head], of.range.clone());
        let planned = PlannedHead {
            pages: self.pages.len() as u32,
            first: start as u32,
            count: (end - start) as u32,
            len: head.len() as u32,
            balance: head.balance_row(),
            value_scale: of.value_scale.unwrap_or(0.0),
            stretch: self.stretches.len() as u32,
            stretches: cut.len() as u32,
            start: self.starts as u32,
            member: self.members as u32,
        };
        for (range, least) in cut {
            self.stretches.push(Stretch {
                head: (self.heads.len() - first_head) as u32,
                first: range.start as u32,
                count: range.len() as u32,
                row: 0,
                list: self.candidates as u32,
                least: *least as u32,
                ceiling: f32::INFINITY,
                unused: 0,
            });
            self.candidates += range.len();
        }
        self.heads.push(planned);
        self.places.push(of.head);
        self.pages.extend(head.pages());
        let listed = head.len() - start / PAGE * PAGE;
        self.members += listed;
        self.starts += listed + 1;
    }

    /// Bytes of the rows of the largest stretch, and of all that can be clustered at a time.
    pub fn row_bytes(&self) -> (usize, usize) {
        let of_group = |group: &Group<'_>| {
            let bytes = |stretch: &Stretch| stretch.count as usize * group.row_bytes() + 3 * ALIGNMENT;
            let stretches = &self.stretches[group.stretches.clone()];
            (stretches.iter().map(bytes).max().unwrap_or(0), stretches.iter().map(bytes).sum())
        };
        let of_groups = self.groups.iter().map(of_group);
        of_groups.fold((0, 0), |(largest, most): (usize, usize), (x, y): (usize, usize)| (largest.max(x), most.max(y)))
    }

    /// Shares `bytes` bytes of rows out among stretches, some at a time.
    pub fn cut_batches(&mut self, bytes: usize) {
        for group in &mut self.groups {
            let most = (bytes - 3 * ALIGNMENT) / group.row_bytes();
            let (mut first, mut rows) = (group.stretches.start, 0);
            for i in group.stretches.clone() {
                let count = self.stretches[i].count as usize;
                if rows + count > most || i - first == MOST_STRETCHES {
                    group.batches.push(first..i);
                    (first, rows) = (i, 0);
                }
                self.stretches[i].row = rows as u32;
                rows += count;
            }
            group.batches.push(first..group.stretches.end);
        }
    }
}

/// Heads with candidates, by how their rows are made.
fn groups<'c>(clustering: &'c Clustering<'_>, heads: &[DeviceHead]) -> Vec<Group<'c>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (i, head) in clustering.heads.iter().enumerate().filter(|(_, head)| !head.range.is_empty()) {
        let layout = heads[head.head].layout();
        match groups.iter_mut().find(|group| group.layout == layout && group.rotary == head.rotary) {
            Some(group) => group.members.push(i),
            None => groups.push(Group {
                layout,
                rotary: head.rotary,
                members: vec![i],
                heads: 0..0,
                stretches: 0..0,
                numbers: if clustering.recipe.value_weight == 0.0 { layout.dim } else { 2 * layout.dim },
                batches: Vec::new(),
            }),
        }
    }
    groups
}
