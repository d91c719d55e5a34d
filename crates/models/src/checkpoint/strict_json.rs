//! JSON objects read as they stand in the file: order kept, repeated keys kept.
//!
//! `serde_json`'s maps silently keep the last of two equal keys, so a file could mean one thing to us and
//! another thing to the next reader. Everything that comes from a submitter is read through [`Pairs`] and
//! then checked.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

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

/// Parses a JSON object of which no object, however deep, has a key twice.
///
/// # Errors
/// The error says in words what was found instead.
pub fn parse_object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(Unique(value @ Value::Object(_))) => Ok(value),
        Ok(Unique(Value::Array(_))) => Err("a list".into()),
        Ok(_) => Err("a single value".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// A JSON value without repeated keys.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Unique(item)) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((key, Unique(value))) = map.next_entry::<String, Unique>()? {
            if members.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key `{key}` twice")));
            }
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_at_any_depth_is_refused_and_everything_else_is_kept() {
        let text = r#"{"a":[1,-2,1e-5,null,true,"x",{"b":{}}],"c":18446744073709551615}"#;
        assert_eq!(parse_object(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        let error = parse_object(r#"{"a":[{"b":1,"c":2,"b":3}]}"#).unwrap_err();
        assert!(error.contains("`b` twice"), "{error}");
        assert_eq!(parse_object("[]").unwrap_err(), "a list");
        assert!(parse_object("{} {}").is_err() && parse_object("3").is_err());
        assert!(parse_object(&"[".repeat(100_000)).is_err(), "depth is bounded");
    }

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
