//! Who is next: lanes by weight, then teams by weight, then age.
//!
//! Both levels are start-time fair queueing: whoever has had the least for its weight goes first, and
//! somebody who was away starts level with the others, not with saved-up turns. Every lane and team
//! that has jobs is served at a rate of at least its weight's share, so none starves.

use std::collections::{BTreeMap, VecDeque};

use forebay_schemas::Lane;

/// What one unit of cost is in the running sums, so that division by a weight loses nothing that counts.
const UNIT: u64 = 1 << 10;

/// What is done with an offered item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It goes, and costs its team and lane so much.
    Take(u64),
    /// It cannot go now; others may.
    Skip,
    /// Nothing can go now.
    Stop,
}

/// Items that wait, in the order in which they should go.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    lanes: Vec<TeamTurn<Lane, Turns<T>>>,
    now: u64,
    len: usize,
}

#[derive(Debug)]
struct Turns<T> {
    teams: BTreeMap<String, TeamTurn<(), VecDeque<T>>>,
    now: u64,
}

/// Teams without jobs that are remembered at most.
const IDLE_TEAMS: usize = 256;

impl<T> Turns<T> {
    fn is_empty(&self) -> bool {
        self.teams.values().all(|team| team.items.is_empty())
    }

    /// A team whose last job has gone is remembered for what it had, so that it does not come first
    /// again with its next one; but only as long as that counts.
    fn forget_idle(&mut self) {
        if self.teams.len() > IDLE_TEAMS {
            let now = self.now;
            self.teams
                .retain(|_, team| !team.items.is_empty() || team.had > now);
        }
    }
}

/// Somebody who takes turns: `had` is what it has had for its weight.
#[derive(Debug)]
struct TeamTurn<N, I> {
    name: N,
    weight: u64,
    had: u64,
    items: I,
}

impl<N, I> TeamTurn<N, I> {
    fn charge(&mut self, cost: u64) -> u64 {
        let start = self.had;
        self.had = start.saturating_add(cost.max(1).saturating_mul(UNIT) / self.weight.max(1));
        start
    }
}

impl<T> FairQueue<T> {
    pub(crate) fn new(weights: [(Lane, u64); 3]) -> Self {
        let lane = |(name, weight)| TeamTurn {
            name,
            weight,
            had: 0,
            items: Turns {
                teams: BTreeMap::new(),
                now: 0,
            },
        };
        Self {
            lanes: weights.into_iter().map(lane).collect(),
            now: 0,
            len: 0,
        }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds an item behind the others of its lane and team, or before them if it was tried already.
    pub(crate) fn push(&mut self, lane: Lane, team: &str, weight: u64, item: T, tried: bool) {
        self.len += 1;
        let Some(lane) = self.lanes.iter_mut().find(|turn| turn.name == lane) else {
            return;
        };
        if lane.items.is_empty() {
            lane.had = lane.had.max(self.now);
        }
        let turns = &mut lane.items;
        let now = turns.now;
        let fresh = || TeamTurn {
            name: (),
            weight,
            had: now,
            items: VecDeque::new(),
        };
        let team = turns.teams.entry(team.to_owned()).or_insert_with(fresh);
        if team.items.is_empty() {
            team.had = team.had.max(now);
        }
        if tried {
            team.items.push_front(item)
        } else {
            team.items.push_back(item)
        }
    }

    /// Offers items in order until one is taken or nothing can go.
    pub(crate) fn offer(&mut self, mut ask: impl FnMut(&T) -> Offer) -> Option<T> {
        let mut lanes: Vec<_> = self
            .lanes
            .iter_mut()
            .filter(|lane| !lane.items.is_empty())
            .collect();
        lanes.sort_by_key(|lane| lane.had);
        for lane in lanes {
            let mut teams: Vec<_> = lane
                .items
                .teams
                .values_mut()
                .filter(|team| !team.items.is_empty())
                .collect();
            teams.sort_by_key(|team| team.had);
            for team in teams {
                for index in 0..team.items.len() {
                    let cost = match ask(&team.items[index]) {
                        Offer::Take(cost) => cost,
                        Offer::Skip => continue,
                        Offer::Stop => return None,
                    };
                    let item = team.items.remove(index);
                    lane.items.now = lane.items.now.max(team.charge(cost));
                    self.now = self.now.max(lane.charge(cost));
                    lane.items.forget_idle();
                    self.len -= 1;
                    return item;
                }
            }
        }
        None
    }

    /// What goes with an item that was taken costs its team and lane so much more.
    pub(crate) fn charge(&mut self, lane: Lane, team: &str, cost: u64) {
        let Some(lane) = self.lanes.iter_mut().find(|turn| turn.name == lane) else {
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
        for lane in &mut self.lanes {
            for team in lane.items.teams.values_mut() {
                let (out, kept): (Vec<_>, Vec<_>) = team.items.drain(..).partition(&which);
                team.items.extend(kept);
                removed.extend(out);
            }
        }
        self.len -= removed.len();
        removed
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
    fn who_was_away_saves_no_turns() {
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
    fn what_goes_with_a_job_is_paid_for_too() {
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
    fn what_cannot_go_is_passed_and_keeps_its_place() {
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
