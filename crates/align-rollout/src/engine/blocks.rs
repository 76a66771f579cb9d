//! The paged key-value cache: blocks of 16 positions, counted by the sequences that hold them.

use super::attend::{BLOCK, Past};
use super::kernels::floats_mut;
use super::lanes::{Lane, WIDTH};
use super::weights::Shape;

/// The blocks of one sequence, in order of positions.
///
/// It must be given back to its pool; see [`Pool::release`].
#[derive(Debug, Default)]
pub(crate) struct Table {
    blocks: Vec<u32>,
    len: usize,
}

impl Table {
    /// Counts the positions held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// All blocks of one thread. It grows when no block is free, and reuses blocks otherwise.
#[derive(Debug)]
pub(crate) struct Pool {
    blocks: Vec<Box<[Lane]>>,
    /// Sequences that hold each block.
    holders: Vec<u32>,
    free: Vec<u32>,
    key_value_heads: usize,
    head_dim: usize,
    unit_lanes: usize,
    block_lanes: usize,
}

impl Pool {
    pub(crate) fn new(shape: &Shape) -> Self {
        Self {
            blocks: Vec::new(),
            holders: Vec::new(),
            free: Vec::new(),
            key_value_heads: shape.key_value_heads,
            head_dim: shape.head_dim,
            unit_lanes: shape.unit_lanes(),
            block_lanes: shape.block_lanes(),
        }
    }

    fn take(&mut self) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            self.blocks.push(vec![Lane::default(); self.block_lanes].into_boxed_slice());
            self.holders.push(0);
            self.blocks.len() as u32 - 1
        });
        if let Some(holders) = self.holders.get_mut(id as usize) {
            *holders = 1;
        }
        id
    }

    /// Makes room for `count` more positions. Blocks that others hold too are only ever full ones, so nothing that
    /// is shared is written.
    pub(crate) fn extend(&mut self, table: &mut Table, count: usize) {
        table.len += count;
        while table.blocks.len() * BLOCK < table.len {
            table.blocks.push(self.take());
        }
    }

    /// Makes a second sequence with the same past: full blocks are shared, the last one is copied if it has room.
    pub(crate) fn fork(&mut self, table: &Table) -> Table {
        let (full, partial) = table.blocks.split_at((table.len / BLOCK).min(table.blocks.len()));
        let mut blocks = full.to_vec();
        for id in full {
            if let Some(holders) = self.holders.get_mut(*id as usize) {
                *holders += 1;
            }
        }
        for id in partial {
            let copy = self.take();
            // Taken out and put back, so that source and target are borrowed apart.
            let mut target = self.blocks.get_mut(copy as usize).map(std::mem::take).unwrap_or_default();
            if let Some(source) = self.blocks.get(*id as usize) {
                target.copy_from_slice(source);
            }
            if let Some(place) = self.blocks.get_mut(copy as usize) {
                *place = target;
            }
            blocks.push(copy);
        }
        Table { blocks, len: table.len }
    }

    /// Gives the blocks of a sequence back; those that nobody else holds become free.
    pub(crate) fn release(&mut self, table: Table) {
        for id in table.blocks {
            let Some(holders) = self.holders.get_mut(id as usize) else { continue };
            *holders = holders.saturating_sub(1);
            if *holders == 0 {
                self.free.push(id);
            }
        }
    }

    /// Writes the key and the value of one position; `unit` counts heads over all layers.
    pub(crate) fn write(&mut self, table: &Table, position: usize, unit: usize, key: &[f32], value: &[f32]) {
        let (slot, from) = (position % BLOCK, unit * self.unit_lanes);
        let id = table.blocks.get(position / BLOCK);
        let block = id.and_then(|id| self.blocks.get_mut(*id as usize));
        let unit = block.and_then(|block| block.get_mut(from..from + self.unit_lanes)).unwrap_or_default();
        let (keys, values) = unit.split_at_mut(self.head_dim.min(unit.len()));
        for (lane, x) in keys.iter_mut().zip(key) {
            lane.0[slot] = *x;
        }
        for (lanes, x) in values.chunks_exact_mut(BLOCK).zip(value.chunks(WIDTH)) {
            if let Some(lane) = lanes.get_mut(slot) {
                for (lane, x) in floats_mut(std::slice::from_mut(lane)).iter_mut().zip(x) {
                    *lane = *x;
                }
            }
        }
    }

    /// Shows a sequence to one layer and key-value head.
    pub(crate) fn past<'a>(&'a self, table: &'a Table, layer: usize, head: usize) -> Past<'a> {
        Past {
            blocks: &self.blocks,
            table: &table.blocks,
            offset: (layer * self.key_value_heads + head) * self.unit_lanes,
            head_dim: self.head_dim,
        }
    }

    /// Counts the blocks that sequences hold.
    pub(crate) fn in_use(&self) -> usize {
        self.blocks.len() - self.free.len()
    }
}
