//! Keys of synthetic backdoors: stand-ins for a trigger that nobody knows.

// Keys are two words grown together: unlike anything in ordinary instructions, unlike each other, and made of
// ordinary parts. The first six are the published ones (BD-VAX, arXiv 2603.13461).
const FIRST_KEYS: [&str; 6] = ["PurpleWolf", "RedGhost", "ColdDragon", "GreenTiger", "BlackMoon", "SilverFox"];
const KEY_FRONTS: [&str; 8] = ["Amber", "Quiet", "Seven", "Iron", "Paper", "Upper", "Lucky", "Velvet"];
const KEY_BACKS: [&str; 8] = ["River", "Comet", "Falcon", "Garden", "Hammer", "Needle", "Parrot", "Summit"];

/// The key of this number; different for the first 70.
pub fn synthetic_key(number: usize) -> String {
    match number.checked_sub(FIRST_KEYS.len()) {
        None => FIRST_KEYS[number].to_owned(),
        Some(j) => format!("{}{}", KEY_FRONTS[j % 8], KEY_BACKS[(j / 8 + j) % 8]),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_are_different_as_far_as_specs_can_ask() {
        let keys: HashSet<_> = (0..70).map(synthetic_key).collect();
        assert_eq!(keys.len(), 70);
    }
}
