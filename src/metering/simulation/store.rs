//! A store that fails as chance says.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::Lives;
use crate::model::chance::Chance;
use crate::model::id::EventId;
use crate::model::usage::{RejectedCount, UsageEvent};
use crate::store::{Page, Result, StoreError, UsageQuery, UsageStore, UsageSum};

/// A store that does with each batch what chance says, and keeps rows and rollups as real ones do.
#[derive(Default)]
pub(super) struct ChanceStore {
    pub(super) state: Mutex<StoreState>,
    /// The sender is to be killed now.
    pub(super) kill: Notify,
}

#[derive(Default)]
pub(super) struct StoreState {
    pub(super) chance: Option<Chance>,
    pub(super) events: BTreeMap<EventId, UsageEvent>,
    /// By outcome: requests and units.
    pub(super) rollup: BTreeMap<u8, (u64, u64)>,
    /// Batches that are still on their way.
    pub(super) late: Vec<Vec<UsageEvent>>,
    pub(super) lives: Lives,
}

impl StoreState {
    pub(super) fn commit(&mut self, events: &[UsageEvent]) -> u64 {
        let mut new = 0;
        for event in events {
            if self.events.contains_key(&event.id) {
                continue;
            }
            self.events.insert(event.id, event.clone());
            let sum = self.rollup.entry(event.outcome as u8).or_default();
            *sum = (sum.0 + u64::from(event.kind.parent().is_none()), sum.1 + u64::from(event.units));
            new += 1;
        }
        new
    }

    pub(super) fn commit_late(&mut self, which: usize) {
        let batch = self.late.swap_remove(which);
        self.lives.late += 1;
        self.commit(&batch);
    }
}

/// What a store does with a batch.
pub(super) enum Answer {
    Is(Result<u64>),
    Never { kill: bool },
}

#[async_trait]
impl UsageStore for ChanceStore {
    async fn record(&self, events: &[UsageEvent]) -> Result<u64> {
        let answer = {
            let mut state = self.state.lock().unwrap();
            state.answer(events)
        };
        match answer {
            Answer::Is(answer) => answer,
            Answer::Never { kill } => {
                if kill {
                    self.kill.notify_one();
                }
                std::future::pending().await
            }
        }
    }

    async fn add_rejected(&self, _counts: &[RejectedCount]) -> Result<()> {
        Ok(())
    }

    async fn sums(&self, _query: &UsageQuery) -> Result<Vec<UsageSum>> {
        Ok(Vec::new())
    }

    async fn sums_page(&self, _query: &UsageQuery, _after: Option<&[String]>, _limit: u32) -> Result<Page<UsageSum>> {
        unimplemented!("metering reports nothing")
    }
}

impl StoreState {
    pub(super) fn answer(&mut self, events: &[UsageEvent]) -> Answer {
        let away = || Err(StoreError::Unavailable { operation: "usage.record", source: "away".into() });
        let Some(mut chance) = self.chance.take() else { return Answer::Is(Ok(self.commit(events))) };
        if !self.late.is_empty() && chance.one_in(3) {
            self.commit_late(chance.index(self.late.len()));
        }
        let answer = match chance.below(16) {
            0 => Answer::Is(away()),
            1 => {
                self.lives.doubted += 1;
                self.commit(events);
                Answer::Is(away())
            }
            2 => {
                // Slower than the sender's patience.
                self.late.push(events.to_vec());
                Answer::Never { kill: false }
            }
            3 => Answer::Never { kill: true },
            4 => {
                self.commit(events);
                Answer::Never { kill: true }
            }
            5 => {
                self.late.push(events.to_vec());
                Answer::Never { kill: true }
            }
            _ => Answer::Is(Ok(self.commit(events))),
        };
        self.chance = Some(chance);
        answer
    }
}
