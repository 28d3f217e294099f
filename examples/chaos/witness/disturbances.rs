//! When which disaster was: what a client knows for sure depends on whom it happened to.

use super::wills::Ms;

/// A disaster from its beginning to its end.
#[derive(Clone, Debug)]
pub(crate) struct Disturbance {
    pub(crate) what: String,
    /// The sidecar that it happened to, if it was one.
    pub(crate) sidecar: Option<usize>,
    /// The process ends.
    pub(crate) is_deadly: bool,
    pub(crate) from: Ms,
    /// Nothing while it goes on.
    pub(crate) to: Option<Ms>,
}

/// All of them, in the order in which they began.
#[derive(Debug, Default)]
pub(crate) struct Disturbances {
    all: Vec<Disturbance>,
}

impl Disturbances {
    pub(crate) fn begin(&mut self, what: String, sidecar: Option<usize>, is_deadly: bool, from: Ms) -> usize {
        self.all.push(Disturbance { what, sidecar, is_deadly, from, to: None });
        self.all.len() - 1
    }

    pub(crate) fn end(&mut self, index: usize, to: Ms) {
        self.all[index].to = Some(to);
    }

    /// What happened to a sidecar between two times.
    fn within(&self, sidecar: usize, from: Ms, to: Ms) -> impl Iterator<Item = &Disturbance> {
        let is_in = move |d: &&Disturbance| d.from <= to && d.to.is_none_or(|end| end >= from);
        self.all.iter().filter(move |d| d.sidecar == Some(sidecar)).filter(is_in)
    }

    /// Whether nothing happened to a sidecar between two times.
    pub(crate) fn is_quiet(&self, sidecar: usize, from: Ms, to: Ms) -> bool {
        self.within(sidecar, from, to).next().is_none()
    }

    /// Whether a sidecar was ended between two times.
    pub(crate) fn has_killed(&self, sidecar: usize, from: Ms, to: Ms) -> bool {
        self.within(sidecar, from, to).any(|d| d.is_deadly)
    }

    pub(crate) fn all(&self) -> &[Disturbance] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_quiet_where_nothing_overlaps() {
        let mut all = Disturbances::default();
        let first = all.begin("stop".to_owned(), Some(0), false, 100);
        assert!(!all.is_quiet(0, 500, 600), "it goes on");
        all.end(first, 200);
        all.begin("stepdown".to_owned(), None, false, 300);
        assert!(all.is_quiet(0, 201, 600) && all.is_quiet(0, 0, 99) && all.is_quiet(1, 0, 600));
        assert!(!all.is_quiet(0, 150, 160) && !all.is_quiet(0, 0, 100) && !all.is_quiet(0, 200, 600));
    }
    #[test]
    fn only_what_ends_a_sidecar_kills_it() {
        let mut all = Disturbances::default();
        let stop = all.begin("stop".to_owned(), Some(0), false, 100);
        all.end(stop, 200);
        let kill = all.begin("kill".to_owned(), Some(0), true, 300);
        all.end(kill, 400);
        assert!(!all.has_killed(0, 100, 299) && all.has_killed(0, 350, 360) && !all.has_killed(1, 0, 900));
    }
}
