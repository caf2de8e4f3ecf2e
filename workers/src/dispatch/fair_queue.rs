//! Which waiting item is next: teams by weight, then the lanes of a team by weight; within a lane in the order in which
//! the items were put in front or behind.
//!
//! # Why
//!
//! Many teams share the accounts, and each has three lanes. A team must get its share whatever the others do, so no team
//! gains calls over another by the lane that it names. An idle account must never wait for a team that has nothing to do.
//!
//! # How
//!
//! Teams, and the lanes within a team, are queued by start-time fair queueing. Each of them has a `start`: the cost that it
//! was charged so far, divided by its weight. The least start is served first. A level's virtual time is the greatest start
//! that was served. A team or lane that had no items restarts at the virtual time, so it does not save up turns while it
//! is away.
//!
//! # Invariants
//!
//! - While all teams and lanes have items that can start, each is served in proportion to its weight, and none starves.
//! - The lanes of a team change nothing for other teams.
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
    lane_weights: [(Lane, u64); 3],
    teams: BTreeMap<String, QueueTurn<LaneQueues<T>>>,
    virtual_time: u64,
    len: usize,
}

/// The lanes of one team.
#[derive(Debug)]
struct LaneQueues<T> {
    lanes: [(Lane, QueueTurn<VecDeque<T>>); 3],
    virtual_time: u64,
}

impl<T> LaneQueues<T> {
    fn new(weights: [(Lane, u64); 3]) -> Self {
        Self {
            lanes: weights.map(|(lane, weight)| (lane, QueueTurn::new(weight, 0, VecDeque::new()))),
            virtual_time: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.lanes.iter().all(|(_, lane)| lane.items.is_empty())
    }

    fn lane(&mut self, lane: Lane) -> Option<&mut QueueTurn<VecDeque<T>>> {
        let mut lanes = self.lanes.iter_mut();
        lanes.find_map(|(name, turn)| (*name == lane).then_some(turn))
    }

    /// The lanes that have items, the one that is next in turn first.
    fn in_turn(&mut self) -> Vec<&mut QueueTurn<VecDeque<T>>> {
        let lanes = self.lanes.iter_mut().map(|(_, lane)| lane);
        let mut lanes: Vec<_> = lanes.filter(|lane| !lane.items.is_empty()).collect();
        lanes.sort_by_key(|lane| lane.start);
        lanes
    }

    /// Offers the items in order until one is taken. Returns it with its cost, or `None` in `Ok` if no item can start.
    ///
    /// # Errors
    /// Fails if no item of any team can start now.
    fn offer(
        &mut self,
        ask: &mut impl FnMut(&T) -> Offer,
    ) -> Result<Option<(T, u64)>, NothingStarts> {
        let mut taken = None;
        for lane in self.in_turn() {
            let Some((index, cost)) = find(&lane.items, ask)? else {
                continue;
            };
            let item = lane.items.remove(index);
            let start = lane.charge(cost);
            taken = item.map(|item| (item, cost, start));
            break;
        }
        let Some((item, cost, start)) = taken else {
            return Ok(None);
        };
        self.virtual_time = self.virtual_time.max(start);
        Ok(Some((item, cost)))
    }
}

/// No item of any team can start now.
#[derive(Debug)]
struct NothingStarts;

/// The place and the cost of the first item that starts; `None` if none does.
fn find<T>(
    items: &VecDeque<T>,
    ask: &mut impl FnMut(&T) -> Offer,
) -> Result<Option<(usize, u64)>, NothingStarts> {
    for (index, item) in items.iter().enumerate() {
        match ask(item) {
            Offer::Take(cost) => return Ok(Some((index, cost))),
            Offer::Skip => {}
            Offer::Stop => return Err(NothingStarts),
        }
    }
    Ok(None)
}

/// A team or a lane, and what it was served.
#[derive(Debug)]
struct QueueTurn<I> {
    weight: u64,
    /// The cost that was charged, in [`UNIT`]s, divided by the weight.
    start: u64,
    items: I,
}

impl<I> QueueTurn<I> {
    fn new(weight: u64, start: u64, items: I) -> Self {
        Self {
            weight,
            start,
            items,
        }
    }

    /// Charges a cost; returns the start before it.
    fn charge(&mut self, cost: u64) -> u64 {
        let start = self.start;
        let units = cost.max(1).saturating_mul(UNIT);
        self.start = start.saturating_add(units / self.weight.max(1));
        start
    }
}

impl<T> FairQueue<T> {
    pub(crate) fn new(lane_weights: [(Lane, u64); 3]) -> Self {
        Self {
            lane_weights,
            teams: BTreeMap::new(),
            virtual_time: 0,
            len: 0,
        }
    }

    /// How many items wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds an item behind the others of its team and lane, or before them if it `goes_first`.
    pub(crate) fn push(&mut self, lane: Lane, team: &str, weight: u64, item: T, goes_first: bool) {
        let (virtual_time, lane_weights) = (self.virtual_time, self.lane_weights);
        let team = self.teams.entry(team.to_owned());
        let team = team
            .or_insert_with(|| QueueTurn::new(weight, virtual_time, LaneQueues::new(lane_weights)));
        if team.items.is_empty() {
            team.start = team.start.max(virtual_time);
        }
        let virtual_time = team.items.virtual_time;
        let Some(lane) = team.items.lane(lane) else {
            return;
        };
        if lane.items.is_empty() {
            lane.start = lane.start.max(virtual_time);
        }
        if goes_first {
            lane.items.push_front(item);
        } else {
            lane.items.push_back(item);
        }
        self.len += 1;
    }

    /// Offers the items in order until one is taken or nothing can start.
    pub(crate) fn offer(&mut self, mut ask: impl FnMut(&T) -> Offer) -> Option<T> {
        let teams = self.teams.values_mut();
        let mut teams: Vec<_> = teams.filter(|team| !team.items.is_empty()).collect();
        teams.sort_by_key(|team| team.start);
        for team in teams {
            let Some((item, cost)) = team.items.offer(&mut ask).ok()? else {
                continue;
            };
            let start = team.charge(cost);
            self.served(start);
            return Some(item);
        }
        None
    }

    /// An item of a team with this start was served.
    fn served(&mut self, start: u64) {
        self.virtual_time = self.virtual_time.max(start);
        self.len -= 1;
        self.check_len();
        self.forget_idle();
    }

    /// Forgets teams without items. A team whose start is ahead of the virtual time is remembered: otherwise its next item
    /// would come first again.
    fn forget_idle(&mut self) {
        if self.teams.len() > MAX_REMEMBERED_TEAMS {
            let virtual_time = self.virtual_time;
            let is_needed = |team: &QueueTurn<LaneQueues<T>>| {
                !team.items.is_empty() || team.start > virtual_time
            };
            self.teams.retain(|_, team| is_needed(team));
        }
    }

    /// Charges a team and lane for what starts together with an item that was taken.
    pub(crate) fn charge(&mut self, lane: Lane, team: &str, cost: u64) {
        let Some(team) = self.teams.get_mut(team) else {
            return;
        };
        team.charge(cost);
        if let Some(lane) = team.items.lane(lane) {
            lane.charge(cost);
        }
    }

    /// Takes out every item for which `which` holds.
    pub(crate) fn remove_where(&mut self, which: impl Fn(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        let teams = self.teams.values_mut();
        for (_, lane) in teams.flat_map(|team| &mut team.items.lanes) {
            let (out, kept): (Vec<_>, Vec<_>) = lane.items.drain(..).partition(&which);
            lane.items.extend(kept);
            removed.extend(out);
        }
        self.len -= removed.len();
        self.check_len();
        removed
    }

    fn check_len(&self) {
        debug_assert_eq!(
            self.len,
            self.teams
                .values()
                .flat_map(|team| &team.items.lanes)
                .map(|(_, lane)| lane.items.len())
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
    fn no_team_gains_calls_over_another_by_its_lane() {
        let mut queue = FairQueue::new(WEIGHTS);
        for _ in 0..300 {
            queue.push(Lane::Interactive, "urgent", 1, "urgent", false);
            queue.push(Lane::Normal, "usual", 1, "usual", false);
            queue.push(Lane::Bulk, "patient", 1, "patient", false);
        }
        let counts = served(&mut queue, 300);
        assert_eq!(
            (counts["urgent"], counts["usual"], counts["patient"]),
            (100, 100, 100)
        );
    }

    #[test]
    fn a_teams_lanes_share_what_the_team_gets() {
        let mut queue = FairQueue::new(WEIGHTS);
        for _ in 0..400 {
            queue.push(Lane::Interactive, "both", 1, "now", false);
            queue.push(Lane::Normal, "both", 1, "soon", false);
            queue.push(Lane::Bulk, "heavy", 3, "heavy", false);
        }
        let counts = served(&mut queue, 400);
        assert_eq!(
            (counts["heavy"], counts["now"], counts["soon"]),
            (300, 80, 20)
        );
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
