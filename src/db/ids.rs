//! Ids as types: a prefix that says what it names, then a UUIDv7 in Crockford base32, so that text order is
//! time order.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sqlx::{Database, Decode, Encode, Sqlite, Type, encode::IsNull, error::BoxDynError};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema},
};
use uuid::Uuid;

/// Crockford's alphabet in lower case: no i, l, o, u.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 128 bits in groups of five.
const DIGITS: usize = 26;

/// Text that is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected `{prefix}` followed by 26 characters of 0-9 and a-z without i, l, o, u; found `{found}`")]
pub struct IdError {
    prefix: &'static str,
    found: String,
}

fn encode(uuid: Uuid) -> String {
    let bits = uuid.as_u128();
    let digit = |index: usize| ALPHABET[(bits >> (5 * (DIGITS - 1 - index)) & 31) as usize] as char;
    (0..DIGITS).map(digit).collect()
}

/// Strict: one spelling per id, so that ids can be compared as text.
fn decode(text: &str) -> Option<Uuid> {
    let digits = text.as_bytes();
    if digits.len() != DIGITS || digits[0] > b'7' {
        return None;
    }
    let mut bits = 0u128;
    for digit in digits {
        let value = ALPHABET.iter().position(|letter| letter == digit)?;
        bits = bits << 5 | value as u128;
    }
    let uuid = Uuid::from_u128(bits);
    (uuid.get_version_num() == 7).then_some(uuid)
}

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// The letters that every id of this kind begins with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id; later ones sort after earlier ones.
            #[allow(clippy::new_without_default)]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let id = text.strip_prefix($prefix).and_then(decode);
                id.map(Self).ok_or_else(|| IdError { prefix: $prefix, found: text.chars().take(64).collect() })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }

        impl Type<Sqlite> for $name {
            fn type_info() -> <Sqlite as Database>::TypeInfo {
                <String as Type<Sqlite>>::type_info()
            }
        }

        impl<'q> Encode<'q, Sqlite> for $name {
            fn encode_by_ref(&self, buffer: &mut <Sqlite as Database>::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
                <String as Encode<'q, Sqlite>>::encode(self.to_string(), buffer)
            }
        }

        impl<'r> Decode<'r, Sqlite> for $name {
            fn decode(value: <Sqlite as Database>::ValueRef<'r>) -> Result<Self, BoxDynError> {
                Ok(<&str as Decode<'r, Sqlite>>::decode(value)?.parse()?)
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(schema::Type::String)
                    .pattern(Some(concat!("^", $prefix, "[0-7][0-9a-hjkmnp-tv-z]{25}$")))
                    .into()
            }
        }

        impl ToSchema for $name {}
    };
}

typed_id!(
    /// Names an upload.
    UploadId, "upl_"
);
typed_id!(
    /// Names an artifact.
    ArtifactId, "art_"
);
typed_id!(
    /// Names a job.
    JobId, "job_"
);
typed_id!(
    /// Names a step of a job.
    StepId, "stp_"
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_number_survives_the_alphabet(bits: u128) {
            // Version 7 sits in bits 76 to 79.
            let uuid = Uuid::from_u128(bits & !(0xf << 76) | 7 << 76);
            prop_assert_eq!(decode(&encode(uuid)), Some(uuid));
        }
    }

    #[test]
    fn later_ids_sort_after_earlier_ones_as_text() {
        let ids: Vec<String> = (0..1000).map(|_| JobId::new().to_string()).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let error = UploadId::new().to_string().parse::<JobId>().unwrap_err();
        assert!(error.to_string().contains("expected `job_`"), "{error}");
    }

    #[test]
    fn capitals_wrong_lengths_and_overflow_are_refused() {
        let good = JobId::new().to_string();
        for bad in [good.to_uppercase(), good[..29].to_owned(), format!("{good}0"), format!("job_8{}", &good[5..])] {
            assert!(bad.parse::<JobId>().is_err(), "{bad} was accepted");
        }
    }
}
