//! Which waiting item is next: lanes by weight, then teams by weight; within a team the latest
//! retry first, then new items by age.
//!
//! # Why
//!
//! Many teams and three lanes share the accounts. Each must get its share whatever the others do, and an idle account must
//! never wait for a team that has nothing to do.
//!
//! # How
//!
//! Lanes, and the teams within a lane, are queued by start-time fair queueing. Each of them has a `start`: the cost that it
//! was charged so far, divided by its weight. The least start is served first. A level's virtual time is the greatest start
//! that was served. A lane or team that had no items restarts at the virtual time, so it does not save up turns while it
//! is away.
//!
//! # Invariants
//!
//! - While all lanes and teams have items that can start, each is served in proportion to its weight, and none starves.
//! - An item that cannot start keeps its place.
//! - `len` is the number of all items.

use std::collections::{BTreeMap, VecDeque};

use forebay_schemas::Lane;

/// One unit of cost in a `start`. It is this large so that the division by a weight keeps enough digits.
const UNIT: u64 = 1 << 10;

/// From this number of teams on, those without items are forgotten.
const MAX_REMEMBERED_TEAMS: usize = 256;

/// The answer to an offered item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It starts, and costs its team and lane this much.
    Take(u64),
    /// It cannot start now; others may.
    Skip,
    /// Nothing can start now.
    Stop,
}

/// Items that wait, in the order in which they should start.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    lanes: Vec<(Lane, QueueTurn<TeamQueues<T>>)>,
    virtual_time: u64,
    len: usize,
}

/// The teams of one lane.
#[derive(Debug)]
struct TeamQueues<T> {
    teams: BTreeMap<String, QueueTurn<VecDeque<T>>>,
    virtual_time: u64,
}

impl<T> TeamQueues<T> {
    fn is_empty(&self) -> bool {
        self.teams.values().all(QueueTurn::is_idle)
    }

    /// A team with this start was served.
    fn served(&mut self, start: u64) {
        self.virtual_time = self.virtual_time.max(start);
        self.forget_idle();
    }

    /// Forgets teams without items. A team whose start is ahead of the virtual time is remembered: otherwise its next item
    /// would come first again.
    fn forget_idle(&mut self) {
        if self.teams.len() > MAX_REMEMBERED_TEAMS {
            let virtual_time = self.virtual_time;
            self.teams
                .retain(|_, team| !team.is_idle() || team.start > virtual_time);
        }
    }
}

/// A lane or a team, and what it was served.
#[derive(Debug)]
struct QueueTurn<I> {
    weight: u64,
    /// The cost that was charged, in [`UNIT`]s, divided by the weight.
    start: u64,
    items: I,
}

impl<T> QueueTurn<VecDeque<T>> {
    fn is_idle(&self) -> bool {
        self.items.is_empty()
    }
}

impl<I> QueueTurn<I> {
    /// Charges a cost; returns the start before it.
    fn charge(&mut self, cost: u64) -> u64 {
        let start = self.start;
        let units = cost.max(1).saturating_mul(UNIT);
        self.start = start.saturating_add(units / self.weight.max(1));
        start
    }
}

impl<T> FairQueue<T> {
    pub(crate) fn new(weights: [(Lane, u64); 3]) -> Self {
        let turn = |(lane, weight)| {
            let items = TeamQueues {
                teams: BTreeMap::new(),
                virtual_time: 0,
            };
            let turn = QueueTurn {
                weight,
                start: 0,
                items,
            };
            (lane, turn)
        };
        Self {
            lanes: weights.into_iter().map(turn).collect(),
            virtual_time: 0,
            len: 0,
        }
    }

    /// How many items wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn lane(&mut self, lane: Lane) -> Option<&mut QueueTurn<TeamQueues<T>>> {
        let mut lanes = self.lanes.iter_mut();
        lanes.find_map(|(name, turn)| (*name == lane).then_some(turn))
    }

    /// Adds an item behind the others of its lane and team, or before them if it is a retry.
    pub(crate) fn push(&mut self, lane: Lane, team: &str, weight: u64, item: T, is_retry: bool) {
        let virtual_time = self.virtual_time;
        let Some(lane) = self.lane(lane) else {
            return;
        };
        if lane.items.is_empty() {
            lane.start = lane.start.max(virtual_time);
        }
        let TeamQueues {
            teams,
            virtual_time,
        } = &mut lane.items;
        let team = teams.entry(team.to_owned()).or_insert_with(|| QueueTurn {
            weight,
            start: *virtual_time,
            items: VecDeque::new(),
        });
        if team.is_idle() {
            team.start = team.start.max(*virtual_time);
        }
        if is_retry {
            team.items.push_front(item);
        } else {
            team.items.push_back(item);
        }
        self.len += 1;
    }

    /// Offers the items in order until one is taken or nothing can start.
    pub(crate) fn offer(&mut self, mut ask: impl FnMut(&T) -> Offer) -> Option<T> {
        let lanes = self.lanes.iter_mut().map(|(_, lane)| lane);
        let mut lanes: Vec<_> = lanes.filter(|lane| !lane.items.is_empty()).collect();
        lanes.sort_by_key(|lane| lane.start);
        for lane in lanes {
            let teams = lane.items.teams.values_mut();
            let mut teams: Vec<_> = teams.filter(|team| !team.is_idle()).collect();
            teams.sort_by_key(|team| team.start);
            for team in teams {
                for index in 0..team.items.len() {
                    let cost = match ask(&team.items[index]) {
                        Offer::Take(cost) => cost,
                        Offer::Skip => continue,
                        Offer::Stop => return None,
                    };
                    let item = team.items.remove(index);
                    let start = team.charge(cost);
                    lane.items.served(start);
                    let start = lane.charge(cost);
                    self.virtual_time = self.virtual_time.max(start);
                    self.len -= 1;
                    self.check_len();
                    return item;
                }
            }
        }
        None
    }

    /// Charges a lane and team for what starts together with an item that was taken.
    pub(crate) fn charge(&mut self, lane: Lane, team: &str, cost: u64) {
        let Some(lane) = self.lane(lane) else {
            return;
        };
        lane.charge(cost);
        if let Some(team) = lane.items.teams.get_mut(team) {
            team.charge(cost);
        }
    }

    /// Takes out every item for which `which` holds.
    pub(crate) fn remove_where(&mut self, which: impl Fn(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for (_, lane) in &mut self.lanes {
            for team in lane.items.teams.values_mut() {
                let (out, kept): (Vec<_>, Vec<_>) = team.items.drain(..).partition(&which);
                team.items.extend(kept);
                removed.extend(out);
            }
        }
        self.len -= removed.len();
        self.check_len();
        removed
    }

    fn check_len(&self) {
        debug_assert_eq!(
            self.len,
            self.lanes
                .iter()
                .flat_map(|(_, lane)| lane.items.teams.values())
                .map(|team| team.items.len())
                .sum::<usize>()
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const WEIGHTS: [(Lane, u64); 3] = [(Lane::Interactive, 16), (Lane::Normal, 4), (Lane::Bulk, 1)];

    fn served(queue: &mut FairQueue<&'static str>, turns: usize) -> HashMap<&'static str, usize> {
        let mut counts = HashMap::new();
        for _ in 0..turns {
            let item = queue.offer(|_| Offer::Take(1)).expect("something waits");
            *counts.entry(item).or_default() += 1;
        }
        counts
    }

    #[test]
    fn lanes_are_served_by_weight_and_none_starves() {
        let mut queue = FairQueue::new(WEIGHTS);
        for _ in 0..500 {
            queue.push(Lane::Bulk, "t", 1, "bulk", false);
            queue.push(Lane::Normal, "t", 1, "normal", false);
            queue.push(Lane::Interactive, "t", 1, "interactive", false);
        }
        let counts = served(&mut queue, 210);
        assert_eq!(
            (counts["interactive"], counts["normal"], counts["bulk"]),
            (160, 40, 10)
        );
    }

    #[test]
    fn teams_are_served_by_weight() {
        let mut queue = FairQueue::new(WEIGHTS);
        for _ in 0..100 {
            queue.push(Lane::Normal, "light", 1, "light", false);
            queue.push(Lane::Normal, "heavy", 3, "heavy", false);
        }
        let counts = served(&mut queue, 40);
        assert_eq!((counts["heavy"], counts["light"]), (30, 10));
    }

    #[test]
    fn a_team_that_was_away_saves_no_turns() {
        let mut queue = FairQueue::new(WEIGHTS);
        for _ in 0..200 {
            queue.push(Lane::Normal, "busy", 1, "busy", false);
        }
        served(&mut queue, 100);
        for _ in 0..50 {
            queue.push(Lane::Normal, "new", 1, "new", false);
        }
        let counts = served(&mut queue, 20);
        assert_eq!((counts["busy"], counts["new"]), (10, 10));
    }

    #[test]
    fn a_team_whose_jobs_come_one_by_one_does_not_go_first_again() {
        let mut queue = FairQueue::new(WEIGHTS);
        let mut order = Vec::new();
        queue.push(Lane::Normal, "a", 1, "a", false);
        queue.push(Lane::Normal, "b", 1, "b", false);
        for _ in 0..6 {
            let item = queue.offer(|_| Offer::Take(1)).expect("something waits");
            order.push(item);
            queue.push(Lane::Normal, item, 1, item, false);
        }
        assert_eq!(order, ["a", "b", "a", "b", "a", "b"]);
    }

    #[test]
    fn jobs_that_share_a_call_are_charged_too() {
        let mut queue = FairQueue::new(WEIGHTS);
        for _ in 0..100 {
            queue.push(Lane::Normal, "alone", 1, "alone", false);
            queue.push(Lane::Normal, "joined", 1, "joined", false);
        }
        let mut counts = HashMap::<_, u64>::new();
        for _ in 0..40 {
            let item = queue.offer(|_| Offer::Take(1)).expect("something waits");
            *counts.entry(item).or_default() += 1;
            if item == "joined" {
                queue.charge(Lane::Normal, "joined", 3);
            }
        }
        assert_eq!((counts["alone"], counts["joined"]), (32, 8));
    }

    #[test]
    fn an_item_that_cannot_start_keeps_its_place() {
        let mut queue = FairQueue::new(WEIGHTS);
        for item in ["first", "second", "third"] {
            queue.push(Lane::Normal, "t", 1, item, false);
        }
        queue.push(Lane::Normal, "t", 1, "tried before", true);
        let second = |item: &&str| {
            if *item == "second" {
                Offer::Take(1)
            } else {
                Offer::Skip
            }
        };
        assert_eq!(queue.offer(second), Some("second"));
        assert_eq!(queue.offer(|_| Offer::Stop), None);
        assert_eq!(queue.remove_where(|item| *item == "first"), ["first"]);
        assert_eq!(queue.offer(|_| Offer::Take(1)), Some("tried before"));
        assert_eq!(queue.len(), 1);
    }
}
