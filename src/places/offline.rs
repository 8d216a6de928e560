//! Places that need no provider: the gazetteer in the binary, or a file of one's own.

use super::document::{Place, Point, Writer};
use super::gazetteer::{ATTRIBUTIONS, Damaged, Gazetteer};
use super::index::Hit;
use super::places_file::OwnPlaces;

/// Answers from places in memory. Keep one and ask it again and again: it keeps what a search
/// needs, and then allocates nothing but what the reply's buffer grows by.
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
    /// The gazetteer built into the binary.
    ///
    /// # Errors
    ///
    /// The binary was built from damaged files.
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

    /// The number of places that are searched.
    pub fn places(&self) -> usize {
        match &self.source {
            Source::Gazetteer(gazetteer) => gazetteer.len(),
            Source::Own(places) => places.len(),
        }
    }

    /// What the source asks to be shown with its places, in HTML.
    pub fn attributions(&self) -> &'static [&'static str] {
        match &self.source {
            Source::Gazetteer(_) => &ATTRIBUTIONS,
            Source::Own(_) => &[],
        }
    }

    /// Appends the document of the `max` places nearest to `centre` within `radius_m` metres,
    /// nearest first; of equally near ones always the same come first.
    pub fn answer(&mut self, centre: Point, radius_m: f64, max: usize, out: &mut Vec<u8>) {
        self.search(centre, radius_m, max);
        let attributions = if self.hits.is_empty() { &[] } else { self.attributions() };
        let mut document = Writer::new(out, attributions);
        self.found(|place, _| document.place(place));
        document.finish();
    }

    /// Shows `visit` what [`Self::answer`] writes, each place with its distance in metres.
    pub fn nearest(
        &mut self,
        centre: Point,
        radius_m: f64,
        max: usize,
        visit: impl FnMut(&Place<'_>, f64),
    ) {
        self.search(centre, radius_m, max);
        self.found(visit);
    }

    fn search(&mut self, centre: Point, radius_m: f64, max: usize) {
        let index = match &self.source {
            Source::Gazetteer(gazetteer) => gazetteer.index(),
            Source::Own(places) => places.index(),
        };
        index.nearest(centre, radius_m, max, &mut self.hits);
    }

    fn found(&self, mut visit: impl FnMut(&Place<'_>, f64)) {
        for hit in &self.hits {
            let visit = |place: &Place<'_>| visit(place, hit.metres);
            match &self.source {
                Source::Gazetteer(gazetteer) => gazetteer.describe(hit, visit),
                Source::Own(places) => places.describe(hit, visit),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::places_file::{Format, parse};
    use serde_json::Value;

    fn answer(offline: &mut Offline, radius_m: f64, max: usize) -> Value {
        let mut out = Vec::new();
        offline.answer(Point { lat: 34.068_930, lng: -118.445_127 }, radius_m, max, &mut out);
        assert_eq!(out.first(), Some(&b'{'));
        assert_eq!(out.last(), Some(&b'}'), "the end of the reply is the caller's");
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
    fn nothing_near_is_no_error() {
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
    fn own_places_answer_nearest_first() {
        let table =
            b"name,lat,lon,kind\nfar,34.2,-118.4,shop\nnear,34.07,-118.44,\nabroad,48,2,shop\n";
        let mut own = Offline::own(parse(table, Format::Csv).unwrap());
        assert_eq!(own.places(), 3);
        let document = answer(&mut own, 50_000.0, 20);
        let names: Vec<_> =
            document["results"].as_array().unwrap().iter().map(|place| &place["name"]).collect();
        assert_eq!(names, ["near", "far"]);
        assert_eq!(document["results"][0].get("types"), None);
        assert_eq!(document["results"][1]["types"], serde_json::json!(["shop"]));
        assert_eq!(document["html_attributions"], serde_json::json!([]));
        let mut metres = Vec::new();
        let centre = Point { lat: 34.07, lng: -118.44 };
        own.nearest(centre, 50_000.0, 20, |place, away| metres.push((place.name.to_owned(), away)));
        assert_eq!(metres[0], ("near".to_owned(), 0.0));
        assert!((14_000.0..16_000.0).contains(&metres[1].1), "{metres:?}");
    }
}
