//! Places in memory: the gazetteer in the binary, or a places file of the operator.

mod gazetteer;
mod index;
pub mod places_file;
pub mod ranks;

use super::document::{Place, Writer};
use crate::geo::Point;
use gazetteer::Gazetteer;
pub use gazetteer::{ATTRIBUTIONS, Damaged};
use index::Hit;
use places_file::OwnPlaces;

/// Places in memory, and the buffer that searches reuse: apart from the buffer of the reply, a
/// search does not allocate.
#[derive(Debug)]
pub struct Offline {
    source: Source,
    hits: Vec<Hit>,
}

#[derive(Debug)]
enum Source {
    Gazetteer(Gazetteer<'static>),
    Own(OwnPlaces),
}

impl Offline {
    /// The gazetteer in the binary.
    ///
    /// # Errors
    ///
    /// [`Damaged`] if the binary was built from damaged files.
    pub fn gazetteer() -> Result<Self, Damaged> {
        Gazetteer::embedded().map(|gazetteer| Self::with(Source::Gazetteer(gazetteer)))
    }

    /// The places of a file.
    pub fn own(places: OwnPlaces) -> Self {
        Self::with(Source::Own(places))
    }

    fn with(source: Source) -> Self {
        Self { source, hits: Vec::new() }
    }

    /// The notices in HTML that must be displayed with the places.
    pub fn attributions(&self) -> &'static [&'static str] {
        match &self.source {
            Source::Gazetteer(_) => &ATTRIBUTIONS,
            Source::Own(_) => &[],
        }
    }

    /// Appends the document of the `max` places nearest to `center` within `radius_m` meters,
    /// nearest first. The order of equally near places is always the same.
    pub fn answer(&mut self, center: Point, radius_m: f64, max: usize, out: &mut Vec<u8>) {
        let index = match &self.source {
            Source::Gazetteer(gazetteer) => gazetteer.index(),
            Source::Own(places) => places.index(),
        };
        index.nearest(center, radius_m, max, &mut self.hits);
        let attributions = if self.hits.is_empty() { &[] } else { self.attributions() };
        let mut document = Writer::new(out, attributions);
        for hit in &self.hits {
            let write = |place: &Place<'_>| document.place(place);
            match &self.source {
                Source::Gazetteer(gazetteer) => gazetteer.describe(hit, write),
                Source::Own(places) => places.describe(hit, write),
            }
        }
        document.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::places_file::{Format, parse};
    use super::*;
    use serde_json::Value;

    fn answer(offline: &mut Offline, radius_m: f64, max: usize) -> Value {
        let mut out = Vec::new();
        offline.answer(Point { lat: 34.068_930, lng: -118.445_127 }, radius_m, max, &mut out);
        assert_eq!(out.first(), Some(&b'{'));
        assert_eq!(out.last(), Some(&b'}'), "the caller terminates the reply");
        assert!(!out.windows(2).any(|pair| pair == b"\n\n"));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn the_gazetteer_answers_with_its_attribution() {
        let mut gazetteer = Offline::gazetteer().unwrap();
        let document = answer(&mut gazetteer, 10_000.0, 5);
        assert_eq!(document["status"], "OK");
        assert_eq!(document["results"].as_array().unwrap().len(), 5);
        assert_eq!(document["results"][0]["name"], "Bel Air");
        assert_eq!(document["results"][0]["vicinity"], "California, United States");
        assert_eq!(document["html_attributions"].as_array().unwrap().len(), ATTRIBUTIONS.len());
    }

    #[test]
    fn no_places_nearby_are_zero_results() {
        let mut gazetteer = Offline::gazetteer().unwrap();
        for document in [answer(&mut gazetteer, 10.0, 5), answer(&mut gazetteer, 10_000.0, 0)] {
            let nothing: [Value; 0] = [];
            let expected = serde_json::json!(
                {"html_attributions": nothing, "results": nothing, "status": "ZERO_RESULTS"}
            );
            assert_eq!(document, expected);
        }
    }

    #[test]
    fn places_of_a_file_are_sorted_by_distance() {
        let table =
            b"name,lat,lon,kind\nfar,34.2,-118.4,shop\nnear,34.07,-118.44,\nabroad,48,2,shop\n";
        let mut own = Offline::own(parse(table, Format::Csv).unwrap());
        let document = answer(&mut own, 50_000.0, 20);
        let names: Vec<_> =
            document["results"].as_array().unwrap().iter().map(|place| &place["name"]).collect();
        assert_eq!(names, ["near", "far"]);
        assert_eq!(document["results"][0].get("types"), None);
        assert_eq!(document["results"][1]["types"], serde_json::json!(["shop"]));
        assert_eq!(document["html_attributions"], serde_json::json!([]));
    }
}
