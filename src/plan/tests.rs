//! The planner against random trees and gaps: what applying a plan leaves is what SEMANTICS allows.

use super::*;
use crate::entry::{Origin, Signature, Timestamp};
use crate::fingerprint::{ETag, md5};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A side: keys with their content's one byte of identity and its size.
type Tree = BTreeMap<String, (u8, u64)>;

const RULES: Rules = Rules {
    delete: true,
    compare: CompareBy::Content,
    names: Names::Keys { prefix_bytes: 0 },
    server_side: false,
    update_metadata: false,
};

fn local(key: &str, (content, size): (u8, u64)) -> Entry {
    let modified = Timestamp { seconds: i64::from(content), nanoseconds: 0 };
    let signature = Signature { size, modified, changed: modified, inode: 1, device: 1 };
    let origin = Origin::Local { signature, mode: 0o100_644 };
    Entry { key: Key::new(key), kind: EntryKind::File, size, origin }
}

fn remote(key: &str, (content, size): (u8, u64)) -> Entry {
    let origin = Origin::Remote { etag: ETag::Md5(md5(&[content])), modified: "".into() };
    Entry { key: Key::new(key), kind: EntryKind::File, size, origin }
}

/// A scan of `tree` in order, in which the gaps hide what they cover, partly or wholly.
fn scan(tree: &Tree, gaps: &BTreeSet<String>, entry: fn(&str, (u8, u64)) -> Entry) -> Vec<Scanned> {
    let mut items: BTreeMap<String, Scanned> = BTreeMap::new();
    for (key, value) in tree {
        // Every other key under an unread directory was seen before the reading failed.
        let hidden =
            gaps.iter().any(|gap| key.starts_with(gap) && (gap.len() + key.len()) % 2 == 0);
        if !hidden && !gaps.contains(key) {
            items.insert(key.clone(), Scanned::Entry(entry(key, *value)));
        }
    }
    for gap in gaps {
        let cause = "unreadable".to_owned();
        let gap_item = match gap.is_empty() || gap.ends_with('/') {
            true => Gap::Subtree { prefix: gap.clone(), cause },
            false => Gap::Object { key: Key::new(gap.clone()), cause },
        };
        items.insert(gap.clone(), Scanned::Gap(gap_item));
    }
    items.into_values().collect()
}

fn join(plan: &mut Plan, source: Vec<Scanned>, target: Vec<Scanned>) -> Vec<Step> {
    let mut source = source.into_iter().peekable();
    let mut target = target.into_iter().peekable();
    let mut steps = Vec::new();
    while let Some(side) = next_side(source.peek(), target.peek()) {
        let from = (side != Side::Target).then(|| source.next()).flatten();
        let to = (side != Side::Source).then(|| target.next()).flatten();
        let found = Found { source: from, target: to, record: None };
        plan.step(found, source.peek(), &mut steps);
    }
    steps
}

/// What the executor would do; hashes are asked of the trees themselves.
fn apply(steps: &[Step], source: &Tree, target: &mut Tree) {
    for step in steps {
        match step {
            Step::Act(
                Action::Transfer { source: entry, .. } | Action::Copy { source: entry, .. },
            ) => {
                target.insert(entry.key.as_str().into(), source[entry.key.as_str()]);
            }
            Step::Compare(pair) => {
                let key = pair.source.key.as_str();
                target.insert(key.into(), source[key]);
            }
            Step::Act(Action::Delete { target: entry }) => {
                target.remove(entry.key.as_str());
            }
            Step::Act(
                Action::Keep { .. }
                | Action::Update { .. }
                | Action::Spare { .. }
                | Action::Refuse { .. },
            )
            | Step::Prune(_)
            | Step::Unread(_) => {}
        }
    }
}

/// What a plan that remembers makes of two sides that were `before`, and are `now`.
fn remembered(before: (&Entry, &Entry), now: (Entry, Entry), by: CompareBy) -> Step {
    let record = Some(Box::new(Record::of_same(before.0, before.1, None)));
    let (source, target) = (Some(Scanned::Entry(now.0)), Some(Scanned::Entry(now.1)));
    let mut steps = Vec::new();
    let rules = Rules { compare: by, ..RULES };
    Plan::new(rules).step(Found { source, target, record }, None, &mut steps);
    steps.pop().expect("two entries of one name are one step")
}

#[test]
fn what_looks_as_it_did_is_the_same_and_nothing_else_is() {
    // Its ETag tells nothing, so that only the memory can.
    let both = || (local("a", (1, 5)), remote("a", (1, 5)));
    let (source, target) = both();
    let keep = |by| Step::Act(Action::Keep { key: Key::new("a"), by });
    let before = (&source, &target);
    assert_eq!(remembered(before, both(), CompareBy::Content), keep(SameBy::Catalog));
    assert!(matches!(remembered(before, both(), CompareBy::Anew), Step::Compare(_)));
    let another_mount = {
        let (mut source, target) = both();
        if let Origin::Local { signature, .. } = &mut source.origin {
            signature.device += 1;
        }
        (source, target)
    };
    assert_eq!(remembered(before, another_mount, CompareBy::Content), keep(SameBy::Catalog));
    let touched = (local("a", (2, 5)), remote("a", (1, 5)));
    let overwritten = (local("a", (1, 5)), remote("a", (2, 5)));
    for changed in [touched, overwritten] {
        assert!(matches!(remembered(before, changed, CompareBy::Content), Step::Compare(_)));
    }
    let mut chmodded = both();
    if let Origin::Local { mode, .. } = &mut chmodded.0.origin {
        *mode = 0o100_600;
    }
    assert!(matches!(remembered(before, chmodded, CompareBy::Content), Step::Compare(_)));
    let grown = (local("a", (1, 6)), remote("a", (1, 5)));
    let step = remembered(before, grown, CompareBy::Content);
    assert!(matches!(step, Step::Act(Action::Transfer { why: Why::Size, .. })));
}

fn key() -> impl Strategy<Value = String> {
    // Names around the traps of the order: `-` and `.` sort before `/`, `0` behind it.
    let segment = prop::sample::select(vec!["a", "a-b", "a.b", "a0", "a!", "b", "é"]);
    prop::collection::vec(segment, 1..4).prop_map(|segments| segments.join("/"))
}

fn tree() -> impl Strategy<Value = Tree> {
    // Two empty contents are the same content.
    let value = (0..3_u8, 0..3_u64)
        .prop_map(|(content, size)| if size == 0 { (0, 0) } else { (content, size) });
    prop::collection::btree_map(key(), value, 0..40)
}

fn gaps() -> impl Strategy<Value = BTreeSet<String>> {
    let gap = prop_oneof![
        1 => Just(String::new()),
        8 => key().prop_map(|key| key + "/"),
        8 => key(),
    ];
    prop::collection::btree_set(gap, 0..4)
}

fn covered(gaps: &BTreeSet<String>, key: &str) -> bool {
    gaps.iter()
        .any(|gap| gap == key || ((gap.is_empty() || gap.ends_with('/')) && key.starts_with(gap)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn applying_a_plan_makes_the_target_equal_where_it_may(
        source in tree(), target in tree(), gaps in gaps()
    ) {
        let seen = scan(&source, &gaps, local);
        let steps = join(&mut Plan::new(RULES), seen.clone(), scan(&target, &BTreeSet::new(), remote));
        let mut after = target.clone();
        apply(&steps, &source, &mut after);
        let visible: BTreeSet<&str> = seen
            .iter()
            .filter(|item| matches!(item, Scanned::Entry(_)))
            .filter_map(Scanned::position)
            .collect();
        for key in &visible {
            prop_assert_eq!(after.get(*key), source.get(*key), "{}", key);
        }
        for (key, value) in &target {
            if !visible.contains(key.as_str()) {
                let expected = covered(&gaps, key).then_some(value);
                prop_assert_eq!(after.get(key), expected, "{}", key);
            }
        }
        prop_assert!(after.keys().all(|key| target.contains_key(key) || visible.contains(key.as_str())));
    }

    #[test]
    fn a_second_plan_is_all_keep(source in tree(), target in tree()) {
        let none = BTreeSet::new();
        let first = join(&mut Plan::new(RULES), scan(&source, &none, local), scan(&target, &none, remote));
        let mut after = target;
        apply(&first, &source, &mut after);
        prop_assert_eq!(&after, &source);
        let second = join(&mut Plan::new(RULES), scan(&source, &none, remote), scan(&after, &none, remote));
        let is_keep = |step: &Step| matches!(step, Step::Act(Action::Keep { .. }));
        prop_assert!(second.iter().all(is_keep));
        prop_assert_eq!(second.len(), source.len());
    }

    #[test]
    fn a_gap_at_the_target_deletes_nothing_under_it(
        source in tree(), target in tree(), gaps in gaps()
    ) {
        let steps = join(
            &mut Plan::new(RULES),
            scan(&source, &BTreeSet::new(), remote),
            scan(&target, &gaps, local),
        );
        for step in &steps {
            if let Step::Act(Action::Delete { target: entry }) = step {
                prop_assert!(!source.contains_key(entry.key.as_str()));
            }
        }
    }

    #[test]
    fn nothing_is_deleted_unasked(source in tree(), target in tree(), gaps in gaps()) {
        let rules = Rules { delete: false, ..RULES };
        let steps = join(&mut Plan::new(rules), scan(&source, &gaps, local), scan(&target, &gaps, remote));
        let deletes = |step: &Step| matches!(step, Step::Act(Action::Delete { .. }));
        prop_assert!(!steps.iter().any(deletes));
    }
}

fn one(source: Option<Scanned>, target: Option<Scanned>, rules: Rules) -> Vec<Step> {
    let mut steps = Vec::new();
    let found = Found { source, target, record: None };
    Plan::new(rules).step(found, None, &mut steps);
    steps
}

#[test]
fn keys_that_cannot_exist_at_the_target_are_refused() {
    let paths = Rules { names: Names::Paths, ..RULES };
    for (key, reason) in [
        ("../x", Refusal::DotSegment),
        ("a//b", Refusal::EmptySegment),
        ("dir/", Refusal::DirectoryWithContent),
    ] {
        let steps = one(Some(Scanned::Entry(remote(key, (1, 1)))), None, paths);
        let refuse = Action::Refuse { name: key.into(), reason };
        assert_eq!(steps, [Step::Act(refuse)]);
    }
    let long = Rules { names: Names::Keys { prefix_bytes: 1000 }, ..RULES };
    let steps = one(Some(Scanned::Entry(local(&"k".repeat(25), (1, 1)))), None, long);
    assert!(matches!(
        &steps[..],
        [Step::Act(Action::Refuse { reason: Refusal::KeyTooLong(1025), .. })]
    ));
}

#[test]
fn a_directory_goes_only_when_the_source_has_nothing_in_it() {
    let kind = EntryKind::Directory { empty: false };
    let directory = || Scanned::Entry(Entry { kind, ..local("d/", (1, 0)) });
    let rules = Rules { names: Names::Paths, ..RULES };
    let inside = Scanned::Entry(remote("d/f", (1, 1)));
    let mut steps = Vec::new();
    let found = || Found { target: Some(directory()), ..Found::default() };
    Plan::new(rules).step(found(), Some(&inside), &mut steps);
    assert_eq!(steps, []);
    Plan::new(rules).step(found(), None, &mut steps);
    assert!(matches!(&steps[..], [Step::Prune(_)]));
}

#[test]
fn a_full_directory_needs_no_marker_and_an_empty_one_does() {
    for (empty, count) in [(false, 0), (true, 1)] {
        let kind = EntryKind::Directory { empty };
        let directory = Scanned::Entry(Entry { kind, ..local("d/", (1, 0)) });
        assert_eq!(one(Some(directory), None, RULES).len(), count);
    }
}
