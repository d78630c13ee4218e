//! `kv_transfer_params`: what a request wants done with caches, and what is answered.

use crate::ApiError;
use serde_json::{Map, Value, json};

/// Where a cache can be fetched, and what it has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Where.
    pub url: String,
    /// SHA-256 of all of it, in hexadecimal.
    pub digest: String,
    /// Its bytes.
    pub bytes: u64,
}

/// What a request wants done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its cache is to be handed over.
    pub hand_over: bool,
    /// Its prompt was read elsewhere.
    pub take_over: Option<Offer>,
}

/// The name of the field.
const FIELD: &str = "kv_transfer_params";

/// Fields that routers send along for engines of other kinds, and that say nothing here.
const FOREIGN: [&str; 4] = ["remote_engine_id", "remote_block_ids", "remote_host", "remote_port"];

impl Wanted {
    /// What the field says.
    ///
    /// # Errors
    /// If it says what is not known here, or half of what there is to say.
    pub fn parse(params: &Map<String, Value>) -> Result<Wanted, ApiError> {
        let wrong = |what: String| Err(ApiError::field(FIELD, format!("`{FIELD}` {what}")));
        let flag = |name: &str| match params.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(ApiError::field(FIELD, format!("`{FIELD}.{name}` must be true or false"))),
        };
        let (hand_over, remote_prefill) = (flag("do_remote_decode")?, flag("do_remote_prefill")?);
        let known = ["do_remote_decode", "do_remote_prefill", "url", "digest", "bytes"];
        let says = |(name, value): &(&String, &Value)| {
            !value.is_null() && !known.contains(&name.as_str()) && !FOREIGN.contains(&name.as_str())
        };
        if let Some((name, _)) = params.iter().find(says) {
            return wrong(format!("has no field `{name}`"));
        }
        let text = |name: &str| params.get(name).and_then(Value::as_str).map(str::to_owned);
        // Numbers that passed through gRPC are floats.
        let bytes = params.get("bytes").and_then(|bytes| {
            bytes
                .as_u64()
                .or_else(|| bytes.as_f64().filter(|x| *x >= 0.0 && x.fract() == 0.0 && *x < 1e15).map(|x| x as u64))
        });
        let take_over = match (text("url"), text("digest"), bytes) {
            (Some(url), Some(digest), Some(bytes)) => {
                if digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return wrong("has a `digest` that is no SHA-256 in hexadecimal".into());
                }
                Some(Offer { url, digest: digest.to_ascii_lowercase(), bytes })
            }
            (None, None, None) if !remote_prefill => None,
            _ => {
                return wrong(
                    "has to hold `url`, `digest` and `bytes` together, as a server that read the prompt gave them"
                        .into(),
                );
            }
        };
        Ok(Wanted { hand_over, take_over })
    }

    /// What a field of a JSON body says; nothing where it is not there.
    ///
    /// # Errors
    /// As [`Wanted::parse`], and if it is no object.
    pub fn of_field(value: Option<&Value>) -> Result<Wanted, ApiError> {
        match value {
            None | Some(Value::Null) => Ok(Wanted::default()),
            Some(Value::Object(params)) => Wanted::parse(params),
            Some(_) => Err(ApiError::field(FIELD, format!("`{FIELD}` must be an object"))),
        }
    }
}

impl Offer {
    /// What it is called where it lies.
    pub(super) fn id(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or_default()
    }

    /// What the request that is to go on from the cache has to hold.
    pub fn to_json(&self) -> Value {
        json!({
            "do_remote_prefill": true, "do_remote_decode": false,
            "url": self.url, "digest": self.digest, "bytes": self.bytes,
        })
    }
}

/// An object as gRPC carries it.
#[cfg(feature = "grpc")]
pub(crate) fn to_struct(offer: &Offer) -> prost_types::Struct {
    use prost_types::value::Kind;
    let of = |value: &Value| match value {
        Value::Bool(flag) => Kind::BoolValue(*flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        _ => Kind::NullValue(0),
    };
    let json = offer.to_json();
    let fields = json.as_object().into_iter().flatten();
    let fields = fields.map(|(name, value)| (name.clone(), prost_types::Value { kind: Some(of(value)) }));
    prost_types::Struct { fields: fields.collect() }
}

/// An object that came by gRPC. What lies deeper than its own fields is of no use here, and is told as text that is refused.
#[cfg(feature = "grpc")]
pub(crate) fn from_struct(params: prost_types::Struct) -> Map<String, Value> {
    use prost_types::value::Kind;
    let of = |value: prost_types::Value| match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => flag.into(),
        Some(Kind::NumberValue(number)) => number.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::ListValue(list)) => format!("a list of {}", list.values.len()).into(),
        Some(Kind::StructValue(object)) => format!("an object of {}", object.fields.len()).into(),
    };
    params.fields.into_iter().map(|(name, value)| (name, of(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> Result<Wanted, ApiError> {
        Wanted::of_field(Some(&value))
    }

    #[test]
    fn a_request_hands_over_takes_over_or_does_neither() {
        let digest = "ab".repeat(32);
        let nothing = json!({"do_remote_decode": false, "do_remote_prefill": false, "remote_engine_id": null});
        assert_eq!(parse(nothing).unwrap(), Wanted::default());
        let hand = json!({
            "do_remote_decode": true, "do_remote_prefill": false, "remote_block_ids": null, "remote_host": null,
        });
        assert!(parse(hand).unwrap().hand_over);
        let offer = Offer { url: "http://a:1/v1/kv/00".into(), digest: digest.clone(), bytes: 12 };
        let wanted = parse(offer.to_json()).unwrap();
        assert_eq!(wanted, Wanted { hand_over: false, take_over: Some(offer.clone()) });
        let float = json!({"url": offer.url, "digest": digest, "bytes": 12.0});
        assert_eq!(parse(float).unwrap().take_over, Some(offer));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for value in [
            json!([1]),
            json!({"do_remote_decode": "yes"}),
            json!({"do_remote_prefill": true}),
            json!({"url": "http://a:1", "bytes": 1}),
            json!({"url": "http://a:1", "bytes": 1, "digest": "short"}),
            json!({"url": "http://a:1", "bytes": -1, "digest": "ab".repeat(32)}),
            json!({"tensor": 1}),
        ] {
            assert!(parse(value.clone()).is_err(), "{value}");
        }
    }

    #[cfg(feature = "grpc")]
    #[test]
    fn an_offer_passes_through_grpc_and_back() {
        let offer = Offer { url: "http://a:1/v1/kv/00".into(), digest: "0f".repeat(32), bytes: 1 << 40 };
        assert_eq!(Wanted::parse(&from_struct(to_struct(&offer))).unwrap().take_over, Some(offer));
    }
}
