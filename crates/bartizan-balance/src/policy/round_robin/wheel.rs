//! Smooth weighted round robin over classes of weights.

use crate::{Table, WeightClass};

/// Whose turn it is, among classes and within each.
#[derive(Debug)]
pub(super) struct Wheel {
    // What it has been made for.
    version: Option<u64>,
    slots: Vec<Slot>,
    // The slots before; kept for its memory.
    before: Vec<Slot>,
    total: i64,
    // Turns taken in all.
    turns: usize,
    // Where classes start that were not there before.
    first: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    weight: u32,
    total: i64,
    credit: i64,
    // The next one of the class: the position at which to look, and where that is in the class.
    next: usize,
    index: usize,
}

impl Wheel {
    pub(super) fn starting_at(turn: usize) -> Self {
        let (slots, before) = (Vec::new(), Vec::new());
        Self { version: None, slots, before, total: 0, turns: turn, first: turn }
    }

    /// Forgets where classes are, and starts them at this position.
    pub(super) fn start_from(&mut self, position: usize) {
        self.first = position;
        self.version = None;
        self.slots.clear();
    }

    /// Where those of this weight go on.
    pub(super) fn next(&self, weight: u32) -> Option<usize> {
        self.slots.iter().find(|slot| slot.weight == weight).map(|slot| slot.next)
    }

    /// Turns over this table from now on.
    pub(super) fn follow(&mut self, table: &Table) {
        if self.version.replace(table.version()) == Some(table.version()) {
            return;
        }
        std::mem::swap(&mut self.slots, &mut self.before);
        self.slots.clear();
        let first = self.first.checked_rem(table.members().len()).unwrap_or(0);
        let slots = table.classes().iter().map(|class| {
            let before = self.before.iter().find(|slot| slot.weight == class.weight());
            Slot::new(table, class, before, first)
        });
        self.slots.extend(slots);
        let key = |slot: &Slot| (slot.weight, slot.total);
        if !self.slots.iter().map(key).eq(self.before.iter().map(key)) {
            self.wind();
        }
    }

    /// Takes a turn: the position whose turn it is.
    pub(super) fn turn(&mut self, table: &Table) -> Option<usize> {
        self.turns = self.turns.wrapping_add(1);
        let slot = self.step();
        let (class, slot) = (table.classes().get(slot)?, self.slots.get_mut(slot)?);
        let positions = table.in_class(class);
        let position = *positions.get(slot.index)? as usize;
        slot.next = position + 1;
        slot.index = if slot.index + 1 < positions.len() { slot.index + 1 } else { 0 };
        Some(position)
    }

    /// nginx' step: each class gains its weight, the richest has its turn and pays for all.
    fn step(&mut self) -> usize {
        let (mut richest, mut most) = (0, i64::MIN);
        for (i, slot) in self.slots.iter_mut().enumerate() {
            slot.credit += slot.total;
            if slot.credit > most {
                (richest, most) = (i, slot.credit);
            }
        }
        if let Some(slot) = self.slots.get_mut(richest) {
            slot.credit -= self.total;
        }
        richest
    }

    /// Starts a round, at a place that depends on the turns taken before.
    ///
    /// Credits of other weights would leave the round inexact for long; always to start at its
    /// beginning would leave the light backends without a turn where weights change all the time.
    fn wind(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.credit = 0);
        self.total = self.slots.iter().map(|slot| slot.total).sum();
        let unit = self.slots.iter().fold(0, |unit, slot| gcd(slot.total, unit));
        let round = self.total.checked_div(unit).unwrap_or(0).clamp(1, WOUND);
        for _ in 0..self.turns as u64 % round as u64 {
            self.step();
        }
    }
}

impl Slot {
    fn new(table: &Table, class: &WeightClass, before: Option<&Self>, first: usize) -> Self {
        let next = before.map_or(first, |slot| slot.next);
        let positions = table.in_class(class);
        let index = positions.partition_point(|position| (*position as usize) < next);
        Self {
            weight: class.weight(),
            // At most 2^32 backends of a weight below 2^13.
            total: class.total() as i64,
            credit: before.map_or(0, |slot| slot.credit),
            next,
            index: if index < positions.len() { index } else { 0 },
        }
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Steps to wind at most: a few microseconds, once per change of weights.
const WOUND: i64 = 256;
