//! GeoJSON, parsed feature by feature without keeping the whole document in memory.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Error, FieldError, KIND, List, NAME, Point, VICINITY, point};

/// Reads a feature collection.
pub(super) fn read(bytes: &[u8], list: &mut List) -> Result<(), Error> {
    let mut progress = Progress { list, feature: 0, field: None };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Collection(&mut progress).deserialize(&mut reader).and_then(|()| reader.end());
    read.map_err(|error| {
        let mut message = error.to_string();
        // The line is displayed separately. The column is useful for syntax errors only.
        if let (true, Some(end)) = (error.is_data(), message.rfind(" at line ")) {
            message.truncate(end);
        }
        Error { line: error.line().max(1) as u64, field: progress.field, message }
    })
}

/// The progress of parsing.
struct Progress<'l> {
    list: &'l mut List,
    /// The number of the current feature, counted from 1.
    feature: usize,
    /// The field of an error, which errors of serde cannot carry.
    field: Option<&'static str>,
}

/// Parses the file.
struct Collection<'p, 'l>(&'p mut Progress<'l>);

/// Parses the member `features`.
struct Features<'p, 'l>(&'p mut Progress<'l>);

/// Parses and validates one feature, so that an error has its line.
struct OneFeature<'p, 'l>(&'p mut Progress<'l>);

impl<'de> DeserializeSeed<'de> for Collection<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> DeserializeSeed<'de> for Features<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_seq(self)
    }
}

impl<'de> DeserializeSeed<'de> for OneFeature<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Collection<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a GeoJSON FeatureCollection")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut is_collection = false;
        while let Some(member) = members.next_key::<String>()? {
            match member.as_str() {
                "type" => is_collection = members.next_value::<String>()? == "FeatureCollection",
                "features" => members.next_value_seed(Features(&mut *self.0))?,
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        if is_collection {
            return Ok(());
        }
        Err(A::Error::custom(
            "the file is not a GeoJSON FeatureCollection; put the places into \
             {\"type\": \"FeatureCollection\", \"features\": […]}",
        ))
    }
}

impl<'de> Visitor<'de> for Features<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of GeoJSON features")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut features: A) -> Result<(), A::Error> {
        while let Some(()) = features.next_element_seed(OneFeature(&mut *self.0))? {}
        Ok(())
    }
}

impl<'de> Visitor<'de> for OneFeature<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a GeoJSON feature")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<(), A::Error> {
        let Progress { list, feature: number, field } = self.0;
        *number += 1;
        let feature = Feature::deserialize(MapAccessDeserializer::new(members))?;
        feature.place(list).map_err(|FieldError { field: invalid, message }| {
            *field = Some(invalid);
            A::Error::custom(format_args!("feature {number}: {message}"))
        })
    }
}

/// A GeoJSON feature with any geometry.
#[derive(Deserialize)]
struct Feature {
    geometry: Option<Geometry>,
    properties: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Geometry {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    coordinates: Value,
}

impl Feature {
    fn place(&self, list: &mut List) -> Result<(), FieldError> {
        let point = self.point()?;
        let [name, kind, vicinity] = [NAME, KIND, VICINITY].map(|field| self.property(field));
        list.push(point, name?, kind?, vicinity?)
    }

    fn point(&self) -> Result<Point, FieldError> {
        let geometry = self.geometry.as_ref();
        let kind = geometry.map_or("null", |geometry| geometry.kind.as_str());
        let Some(geometry) = geometry.filter(|_| kind == "Point") else {
            let message =
                format!("{kind:?} is not a Point; use one, such as the entrance of the place");
            return Err(FieldError::new("geometry", message));
        };
        // The optional third number is the altitude.
        let number = |index: usize| geometry.coordinates.get(index).and_then(Value::as_f64);
        let (Some(lng), Some(lat)) = (number(0), number(1)) else {
            let message = "a Point has two numbers; use [longitude, latitude]";
            return Err(FieldError::new("coordinates", message));
        };
        point(lat, lng)
    }

    /// Returns the first of the properties `names` that the feature has, or an empty string.
    fn property(&self, names: &[&'static str]) -> Result<&str, FieldError> {
        let properties = self.properties.as_ref();
        let value = |name: &&str| {
            properties.and_then(|properties| properties.get(*name)).filter(|v| !v.is_null())
        };
        match names.iter().find_map(value) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(other) => {
                let message = format!("{other} is not a string; put it in quotes");
                Err(FieldError::new(names[0], message))
            }
        }
    }
}
