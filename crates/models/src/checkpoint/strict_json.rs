//! JSON objects read as they stand in the file: order kept, repeated keys kept.
//!
//! `serde_json`'s maps silently keep the last of two equal keys, so a file could mean one thing to us and another thing to
//! the next reader. Everything that comes from a submitter is read through [`Pairs`] and then checked.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// The members of one JSON object, in file order, repeated keys included.
#[derive(Debug, Clone, PartialEq)]
pub struct Pairs<V>(pub Vec<(String, V)>);

impl<V> Default for Pairs<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> Pairs<V> {
    /// The first key that stands twice, if there is one.
    pub fn find_repeated_key(&self) -> Option<&str> {
        let mut seen = BTreeSet::new();
        self.0.iter().map(|(key, _)| key.as_str()).find(|key| !seen.insert(*key))
    }

    /// The first value under this key.
    pub fn get(&self, key: &str) -> Option<&V> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

struct PairsVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
    type Value = Pairs<V>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            // serde names no key in its errors; a reader of a 400-tensor header needs it.
            let value = map.next_value().map_err(|error| A::Error::custom(format_args!("in `{key}`: {error}")))?;
            pairs.push((key, value));
        }
        Ok(Pairs(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_repeated_keys_survive() {
        let pairs: Pairs<u32> = serde_json::from_str(r#"{"b":1,"a":2,"b":3}"#).unwrap();
        assert_eq!(pairs.0, [("b".into(), 1), ("a".into(), 2), ("b".into(), 3)]);
        assert_eq!(pairs.find_repeated_key(), Some("b"));
        assert_eq!(pairs.get("b"), Some(&1));
    }

    #[test]
    fn an_error_names_the_key_it_happened_under() {
        let error = serde_json::from_str::<Pairs<u32>>(r#"{"first":1,"second":"no"}"#).unwrap_err();
        assert!(error.to_string().contains("`second`"), "{error}");
    }
}
