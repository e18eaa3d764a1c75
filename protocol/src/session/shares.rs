//! One leader's rate, divided among the sessions that it runs at once. Pure.

/// What each session may send at most, in bytes per second, when they want these rates and all of them
/// together may not exceed `total`. Max-min fair: who wants less than an equal share has what it wants, and
/// what that leaves is divided equally among the others. The sum never exceeds `total`; a session that wants
/// nothing is given nothing.
#[must_use]
pub fn fair_shares(total: u64, wants: &[u64]) -> Vec<u64> {
    let mut shares = vec![0; wants.len()];
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_by_key(|index| wants[*index]);
    let mut left = total;
    let mut hungry = wants.len() as u64;
    for index in order {
        let share = wants[index].min(left / hungry);
        shares[index] = share;
        left -= share;
        hungry -= 1;
    }
    shares
}

/// At which rate a session begins beside so many that are sending: as if they divided equally what it would
/// begin with alone. Each finds its own rate from there.
#[must_use]
pub fn first_share(alone_bytes_per_sec: u64, sending: u64) -> u64 {
    alone_bytes_per_sec / sending.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_less_than_its_share_has_it_and_the_others_divide_the_rest() {
        assert_eq!(fair_shares(100, &[]), [0; 0]);
        assert_eq!(fair_shares(100, &[70]), [70]);
        assert_eq!(fair_shares(100, &[300]), [100]);
        assert_eq!(fair_shares(100, &[300, 300]), [50, 50]);
        assert_eq!(fair_shares(100, &[300, 10, 300]), [45, 10, 45]);
        assert_eq!(fair_shares(100, &[0, 300, 0]), [0, 100, 0]);
        assert_eq!(fair_shares(100, &[20, 30, 40]), [20, 30, 40], "there is enough for all");
        assert_eq!(fair_shares(0, &[5, 5]), [0, 0]);
    }

    #[test]
    fn who_begins_beside_others_begins_with_an_equal_part() {
        assert_eq!([0, 1, 4].map(|sending| first_share(1000, sending)), [1000, 500, 200]);
    }

    #[test]
    fn no_division_exceeds_the_total_or_leaves_anything_that_somebody_wants() {
        let mut chance = 7_u64;
        let mut next = |most: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) % most
        };
        for _ in 0..10_000 {
            let total = next(1000);
            let wants: Vec<u64> = (0..1 + next(6)).map(|_| next(500)).collect();
            let shares = fair_shares(total, &wants);
            let sum: u64 = shares.iter().sum();
            assert!(sum <= total, "{total} {wants:?} {shares:?}");
            assert!(shares.iter().zip(&wants).all(|(share, want)| share <= want));
            let unmet: Vec<u64> = shares.iter().zip(&wants).filter(|(s, w)| s < w).map(|(s, _)| *s).collect();
            if let (Some(least), Some(most)) = (unmet.iter().min(), shares.iter().max()) {
                assert!(sum + wants.len() as u64 > total, "something is left: {total} {wants:?} {shares:?}");
                assert!(most - least <= wants.len() as u64, "unfair: {total} {wants:?} {shares:?}");
            }
        }
    }
}
