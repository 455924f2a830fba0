use proptest::prelude::*;

use super::*;
use crate::health::CheckRules;
use crate::{Cluster, InitState, MinHealthy, Role, Verdict};

fn cluster(backends: impl IntoIterator<Item = Backend>) -> Cluster {
    backends.into_iter().fold(Cluster::builder("web"), |web, b| web.add(b)).build().unwrap()
}

fn backend(name: impl Into<String>) -> Backend {
    Backend::new(name.into(), "127.0.0.1:1".parse().unwrap())
}

proptest! {
    #[test]
    fn the_next_eligible_is_what_a_walk_would_find(
        up in prop::collection::vec(any::<bool>(), 1..200),
        start in 0_usize..220,
        except in prop::collection::vec(0_usize..200, 0..4),
    ) {
        let web = cluster(up.iter().enumerate().map(|(i, _)| backend(format!("b{i}"))));
        let members = Arc::clone(web.table().members());
        for (member, up) in members.iter().zip(&up) {
            web.set_up(member, *up);
        }
        let table = web.table();
        let except: Vec<_> = except.iter().filter_map(|i| Some(members.get(*i)?.id())).collect();
        let start_at = if start < up.len() { start } else { 0 };
        let walk = (start_at..up.len()).chain(0..start_at)
            .find(|i| up[*i] && !except.contains(&members[*i].id()));
        prop_assert_eq!(table.next_eligible(start, &except), walk);
        prop_assert_eq!(table.eligible_count(), up.iter().filter(|up| **up).count());
        prop_assert_eq!(table.is_eligible(start), up.get(start).copied().unwrap_or(false));
    }

    #[test]
    fn classes_hold_each_eligible_backend_once_with_its_weight(
        weights in prop::collection::vec(0_u16..5, 0..80),
    ) {
        let web = cluster(
            weights.iter().enumerate().map(|(i, w)| backend(format!("b{i}")).with_weight(*w)),
        );
        let table = web.table();
        let mut seen = Vec::new();
        for class in table.classes() {
            for position in table.in_class(class) {
                prop_assert_eq!(class.weight(), u32::from(weights[*position as usize]) * 16);
                seen.push(*position as usize);
            }
        }
        seen.sort_unstable();
        let willing: Vec<_> = (0..weights.len()).filter(|i| weights[*i] > 0).collect();
        prop_assert_eq!(seen, willing);
        let total: u64 = weights.iter().map(|w| u64::from(*w) * 16).sum();
        prop_assert_eq!(table.total_share(), total);
        prop_assert_eq!(table.draw(u64::MAX).is_some(), total > 0);
    }

    #[test]
    fn evenly_spread_draws_fall_on_each_as_its_weight_says(
        weights in prop::collection::vec(0_u16..9, 1..20),
    ) {
        let web = cluster(
            weights.iter().enumerate().map(|(i, w)| backend(format!("b{i}")).with_weight(*w)),
        );
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        prop_assume!(total > 0);
        let mut counts = vec![0; weights.len()];
        for draw in 0..total {
            // The middle of each unit of weight.
            let random = ((u128::from(draw) * 2 + 1) << 63) / u128::from(total);
            counts[web.table().draw(random as u64).unwrap()] += 1;
        }
        prop_assert_eq!(counts, weights);
    }
}

#[test]
fn an_empty_table_has_nothing_eligible() {
    let web = cluster([]);
    let table = web.table();
    assert_eq!(table.next_eligible(0, &[]), None);
    assert_eq!(table.eligible_count(), 0);
    assert_eq!(table.draw(0), None);
    assert_eq!(table.standing(0), Standing::Out);
}

#[test]
fn panic_uses_all_that_may_be_tried_but_not_where_a_backup_can_help() {
    let names = |web: &Cluster| -> Vec<String> {
        let table = web.table();
        table.eligible_from(0).map(|at| table.members()[at].name().to_string()).collect()
    };
    let of = |backup: bool| {
        let actives = ["a", "b", "c"].map(backend);
        let backups = backup.then(|| backend("spare").with_role(Role::Backup));
        let all = actives.into_iter().chain(backups);
        let web = all.fold(Cluster::builder("web"), |web, backend| web.add(backend));
        web.panic_below(MinHealthy::percent(50)).build().unwrap()
    };
    let down =
        |web: &Cluster, at: usize| web.set_up(&Arc::clone(&web.table().members()[at]), false);
    for backup in [false, true] {
        let web = of(backup);
        down(&web, 0);
        assert_eq!((names(&web), web.table().in_panic()), (vec!["b".into(), "c".into()], false));
        down(&web, 1);
        assert_eq!((names(&web).len(), web.table().in_panic()), (3, true), "one of three is left");
        down(&web, 2);
        match backup {
            true => {
                assert_eq!((names(&web), web.table().in_panic()), (vec!["spare".into()], false))
            }
            false => assert_eq!((names(&web).len(), web.table().in_panic()), (3, true)),
        }
    }
    let web = of(false);
    let members = Arc::clone(web.table().members());
    let checks =
        web.attach(CheckRules { rise: 1, fall: 1, init: InitState::FullyUp, agent: false });
    web.observe(&members[0], checks.say().token(&members[0]).unwrap(), &Verdict::unfit("another"));
    down(&web, 1);
    assert_eq!(names(&web), ["b", "c"], "who is not who it should be stays out");
}
