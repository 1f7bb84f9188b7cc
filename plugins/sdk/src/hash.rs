/// A hash that is the same for the same bytes in every version of this crate, spread evenly over all its bits.
///
/// For what should stick: `hash(&request.client) % 100` is the same number for all requests of a client.
///
/// ```
/// assert_eq!(pointsman_policy::hash("team-a"), 16_587_768_674_872_723_475);
/// ```
pub fn hash(bytes: impl AsRef<[u8]>) -> u64 {
    // FNV-1a, which is the shortest code; its low bits are weak for short keys, so MurmurHash3's finaliser follows.
    let fnv = bytes.as_ref().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::hash;

    #[test]
    fn spreads_similar_keys_evenly() {
        let mut buckets = [0_u32; 100];
        for client in 0..100_000 {
            buckets[(hash(format!("client-{client}")) % 100) as usize] += 1;
        }
        assert!(
            buckets.iter().all(|&count| (850..1_150).contains(&count)),
            "{buckets:?}"
        );
    }
}
