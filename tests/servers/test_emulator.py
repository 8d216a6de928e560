"""Tests of emulator.py: the three services, the modes, the statistics, and the load."""

from __future__ import annotations

import concurrent.futures
import gzip
import http.client
import json
import math
import socket
import ssl
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.parse

from support import EMULATOR, PATIENCE, Client, Server, certificates, trusting

KEY = "EMULATOR_KEY"
MASK = "places.displayName,places.shortFormattedAddress,places.location"
UCLA = (34.06893, -118.445127)
NEMO = (-48.8767, -123.3933)  # where there are no places
AGENT = "proxy-herd-tests/1 (https://example.invalid/contact)"
NEW, LEGACY, OVERPASS = (
    "/v1/places:searchNearby",
    "/maps/api/place/nearbysearch/json",
    "/api/interpreter",
)


def meters(a, b) -> float:
    """Returns the great-circle distance by vectors, independently of the formula of the emulator."""
    u, v = (
        (math.cos(y) * math.cos(x), math.cos(y) * math.sin(x), math.sin(y))
        for y, x in ((math.radians(p[0]), math.radians(p[1])) for p in (a, b))
    )
    cross = (u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0])
    return 6_371_008.8 * math.atan2(math.hypot(*cross), sum(x * y for x, y in zip(u, v)))


def circle(lat=UCLA[0], lng=UCLA[1], radius=5000.0, **more) -> dict:
    place = {"center": {"latitude": lat, "longitude": lng}, "radius": radius}
    return {"locationRestriction": {"circle": place}, **more}


class Case(unittest.TestCase):
    """A test with an emulator."""

    tls = False
    server: Server

    def start(self, *options, tls: bool = False) -> None:
        """Starts an emulator for this test only; `setUpClass` starts one for a class."""
        keys = ("--cert", certificates() / "server.pem", "--key", certificates() / "server.key")
        self.server = Server(self.addCleanup, EMULATOR, *(keys if tls else ["--plain"]), *options)
        self.tls = tls

    def connect(self, context=None) -> http.client.HTTPConnection:
        if self.tls:
            context = context or trusting()
            made = http.client.HTTPSConnection(
                "localhost", self.server.port, timeout=PATIENCE, context=context
            )
        else:
            made = http.client.HTTPConnection("localhost", self.server.port, timeout=PATIENCE)
        self.addCleanup(made.close)
        return made

    def ask(self, method, path, body=None, headers=None, connection=None):
        connection = connection or self.connect()
        if isinstance(body, dict):
            body = json.dumps(body)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()

    def search(self, body, mask=MASK, key=KEY, connection=None):
        headers = {"Content-Type": "application/json"}
        if mask is not None:
            headers["X-Goog-FieldMask"] = mask
        if key is not None:
            headers["X-Goog-Api-Key"] = key
        status, _, data = self.ask("POST", NEW, body, headers, connection)
        return status, json.loads(data)

    def legacy(self, connection=None, **query):
        status, _, data = self.ask(
            "GET", f"{LEGACY}?{urllib.parse.urlencode(query)}", connection=connection
        )
        return status, json.loads(data)

    def overpass(self, query, agent=AGENT, connection=None):
        body = urllib.parse.urlencode({"data": query})
        headers = {"Content-Type": "application/x-www-form-urlencoded", "User-Agent": agent}
        return self.ask("POST", OVERPASS, body, headers, connection)


class NearbySearchNew(Case):
    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Server(cls.addClassCleanup, EMULATOR, "--plain")

    def test_places_are_within_the_circle_and_have_the_requested_fields(self) -> None:
        status, document = self.search(circle(maxResultCount=20, rankPreference="DISTANCE"))
        self.assertEqual(status, 200)
        places = document["places"]
        self.assertEqual(len(places), 20)
        distances = []
        for place in places:
            self.assertEqual(set(place), {"displayName", "shortFormattedAddress", "location"})
            self.assertIn("emulated", place["displayName"]["text"].lower())
            distances.append(
                meters(UCLA, (place["location"]["latitude"], place["location"]["longitude"]))
            )
        self.assertEqual(distances, sorted(distances))
        self.assertLessEqual(distances[-1], 5000)
        self.assertIn("Boelter Hall (emulated)", [place["displayName"]["text"] for place in places])

    def test_the_radius_is_exact(self) -> None:
        distance = meters(UCLA, (34.0692, -118.4430))
        for radius, inside in ((distance - 0.5, False), (distance + 0.5, True)):
            found = json.dumps(self.search(circle(radius=radius), "places.displayName")[1])
            self.assertEqual("Boelter Hall" in found, inside)

    def test_the_default_order_is_popularity(self) -> None:
        near = self.search(circle(rankPreference="DISTANCE"), "places.id")[1]
        popular = self.search(circle(), "places.id")[1]
        self.assertNotEqual(near, popular)
        self.assertEqual(popular, self.search(circle(rankPreference="POPULARITY"), "places.id")[1])

    def test_the_mask_may_be_nested_or_a_wildcard(self) -> None:
        one = self.search(circle(maxResultCount=1), "places.displayName.text,places.id")[1][
            "places"
        ][0]
        self.assertEqual(set(one), {"displayName", "id"})
        self.assertEqual(set(one["displayName"]), {"text"})
        for mask in (
            "places.displayName.text,places.displayName",
            "places.displayName,places.displayName.text",
        ):
            whole = self.search(circle(maxResultCount=1), mask)[1]
            self.assertEqual(set(whole["places"][0]["displayName"]), {"text", "languageCode"})
        for mask in ("*", "places"):
            self.assertIn("rating", self.search(circle(maxResultCount=1), mask)[1]["places"][0])
        without = self.search(circle(maxResultCount=1), "places.id,places.websiteUri")[1]["places"][
            0
        ]
        self.assertEqual(set(without), {"id"}, "a field without a value is left out")

    def test_the_mask_and_the_key_may_be_in_the_url(self) -> None:
        path = f"{NEW}?key={KEY}&$fields=places.id"
        status, _, data = self.ask("POST", path, circle(maxResultCount=2))
        self.assertEqual((status, len(json.loads(data)["places"])), (200, 2))

    def test_no_results_are_an_empty_object(self) -> None:
        self.assertEqual(self.search(circle(*NEMO, radius=50_000.0)), (200, {}))

    def test_circles_may_cross_the_antimeridian_and_a_pole(self) -> None:
        for center in ((-16.8, 180.0), (-16.8, -180.0)):
            document = self.search(circle(*center, radius=1500.0, rankPreference="DISTANCE"))[1]
            names = {place["displayName"]["text"] for place in document["places"]}
            self.assertEqual(len([name for name in names if "180th meridian" in name]), 2, center)
            longitudes = [place["location"]["longitude"] for place in document["places"]]
            self.assertGreater(
                min(sum(lng > 0 for lng in longitudes), sum(lng < 0 for lng in longitudes)), 3
            )
        pole = self.search(circle(-89.999, 77.0, radius=500.0))[1]["places"]
        self.assertIn("South Pole", json.dumps(pole))

    def test_the_default_of_maxresultcount_is_20(self) -> None:
        self.assertEqual(len(self.search(circle(), "places.id")[1]["places"]), 20)
        self.assertEqual(len(self.search(circle(maxResultCount=7), "places.id")[1]["places"]), 7)

    def test_invalid_keys_are_rejected_like_by_google(self) -> None:
        status, document = self.search(circle(), key=None)
        self.assertEqual((status, document["error"]["status"]), (403, "PERMISSION_DENIED"))
        status, document = self.search(circle(), key="wrong", mask=None)
        self.assertEqual((status, document["error"]["code"]), (400, 400))
        self.assertEqual(document["error"]["details"][0]["reason"], "API_KEY_INVALID")

    def test_a_missing_mask_is_rejected(self) -> None:
        status, document = self.search(circle(), mask=None)
        self.assertEqual((status, document["error"]["status"]), (400, "INVALID_ARGUMENT"))
        self.assertIn("FieldMask is a required parameter", document["error"]["message"])

    def test_invalid_requests_are_rejected(self) -> None:
        bodies = {
            "no body": b"",
            "no JSON": b"{",
            "no object": b"[]",
            "NaN": b'{"maxResultCount": NaN}',
            "no circle": {},
            "null circle": {"locationRestriction": None},
            "no center": {"locationRestriction": {"circle": {"radius": 1.0}}},
            "no radius": {
                "locationRestriction": {"circle": {"center": {"latitude": 1, "longitude": 2}}}
            },
            "radius 0": circle(radius=0.0),
            "radius below": circle(radius=-1.0),
            "radius above": circle(radius=50_000.1),
            "latitude": circle(lat=90.1),
            "longitude": circle(lng=-180.1),
            "latitude is text": circle(lat="north"),
            "lat for latitude": {
                "locationRestriction": {"circle": {"center": {"lat": 1}, "radius": 1}}
            },
            "count above": circle(maxResultCount=21),
            "count below": circle(maxResultCount=-1),
            "count is half": circle(maxResultCount=1.5),
            "rank": circle(rankPreference="NEAREST"),
            "unknown field": circle(radius_km=3),
            "types are text": circle(includedTypes="cafe"),
        }
        for name, body in bodies.items():
            with self.subTest(name):
                status, document = self.search(body)
                self.assertEqual((status, document["error"]["status"]), (400, "INVALID_ARGUMENT"))
        for mask in (
            "places.nowhere",
            "displayName",
            "places.id, places.name",
            "places.location.lat",
            "places.id,",
        ):
            with self.subTest(mask=mask):
                self.assertEqual(self.search(circle(), mask)[0], 400)

    def test_the_limits_of_ranges_are_accepted(self) -> None:
        for body in (
            circle(90.0, 180.0, 50_000.0),
            circle(-90.0, -180.0, 0.1),
            circle(radius=50_000, maxResultCount=1),
            {
                "location_restriction": {
                    "circle": {"center": {"latitude": "1.5", "longitude": 2}, "radius": 9}
                }
            },
        ):
            self.assertEqual(self.search(body)[0], 200, body)

    def test_only_post_is_supported(self) -> None:
        self.assertEqual(self.ask("GET", NEW)[0], 404)
        self.assertEqual(self.ask("POST", "/v1/places:searchNowhere", b"")[0], 404)

    def test_types_are_filtered(self) -> None:
        cafes = self.search(circle(includedTypes=["cafe"]), "places.primaryType")[1]["places"]
        self.assertEqual({place["primaryType"] for place in cafes}, {"cafe"})
        others = self.search(circle(excludedTypes=["cafe"]), "places.primaryType")[1]["places"]
        self.assertNotIn("cafe", {place["primaryType"] for place in others})


class NearbySearchLegacy(Case):
    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Server(cls.addClassCleanup, EMULATOR, "--plain")

    def near(self, **more):
        return self.legacy(**{"key": KEY, "location": "%f,%f" % UCLA, "radius": 5000, **more})

    def test_places_have_the_legacy_format(self) -> None:
        status, document = self.near()
        self.assertEqual(
            (status, document["status"], document["html_attributions"]), (200, "OK", [])
        )
        self.assertEqual(len(document["results"]), 20)
        for result in document["results"]:
            self.assertTrue(result["name"] and result["vicinity"] and result["place_id"])
            location = result["geometry"]["location"]
            self.assertLessEqual(meters(UCLA, (location["lat"], location["lng"])), 5000)

    def test_results_are_paginated(self) -> None:
        first = self.near()[1]
        second = self.legacy(key=KEY, pagetoken=first["next_page_token"])[1]
        third = self.legacy(key=KEY, pagetoken=second["next_page_token"])[1]
        seen = {result["place_id"] for page in (first, second, third) for result in page["results"]}
        self.assertEqual(len(seen), 60)
        self.assertNotIn("next_page_token", third)
        self.assertEqual(self.legacy(key=KEY, pagetoken="x")[1]["status"], "INVALID_REQUEST")

    def test_no_results_are_zero_results(self) -> None:
        document = self.near(location="%f,%f" % NEMO)[1]
        self.assertEqual((document["status"], document["results"]), ("ZERO_RESULTS", []))

    def test_most_errors_have_http_status_200(self) -> None:
        cases = {
            "REQUEST_DENIED": [{"key": ""}, {"key": "wrong"}],
            "INVALID_REQUEST": [
                {"location": ""},
                {"location": "34.1"},
                {"location": "x,y"},
                {"location": "91,0"},
                {"radius": ""},
                {"radius": "wide"},
                {"rankby": "distance"},
            ],
        }
        for status, queries in cases.items():
            for query in queries:
                with self.subTest(query):
                    http_status, document = self.near(**query)
                    self.assertEqual((http_status, document["status"]), (200, status))
                    self.assertEqual(document["results"], [])

    def test_the_radius_is_limited(self) -> None:
        self.assertEqual(self.near(radius=1_000_000)[1]["status"], "OK")


class Overpass(Case):
    AROUND = "(around:2000,%f,%f)" % UCLA

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Server(cls.addClassCleanup, EMULATOR, "--plain")

    def elements(self, query):
        status, headers, data = self.overpass(query)
        self.assertEqual((status, headers.get_content_type()), (200, "application/json"), data)
        return json.loads(data)["elements"]

    def test_all_types_are_found(self) -> None:
        found = self.elements(f'[out:json][timeout:5];nwr["name"]{self.AROUND};out center;')
        self.assertEqual({element["type"] for element in found}, {"node", "way", "relation"})
        for kind, types in (
            ("node", {"node"}), ("way", {"way"}), ("relation", {"relation"}), ("rel", {"relation"}),
            ("nw", {"node", "way"}), ("nr", {"node", "relation"}), ("wr", {"way", "relation"}),
        ):  # fmt: skip
            some = self.elements(f"[out:json];{kind}{self.AROUND};out center;")
            self.assertEqual(some, [element for element in found if element["type"] in types])
            brief = self.elements(f"[out:json];{kind}{self.AROUND};out center tags;")
            self.assertEqual([element["tags"] for element in brief], [it["tags"] for it in some])
            self.assertFalse({"nodes", "members"} & set().union(*brief))
        for element in found:
            at = element if element["type"] == "node" else element["center"]
            self.assertLessEqual(meters(UCLA, (at["lat"], at["lon"])), 2000)
            self.assertTrue(element["tags"]["name"])
        keys = [("nwr".index(element["type"][0]), element["id"]) for element in found]
        self.assertEqual(keys, sorted(keys), "in the order of the ids, not of distance")

    def test_a_way_or_a_relation_has_no_position_without_center(self) -> None:
        for element in self.elements(f"[out:json];wr{self.AROUND};out body;"):
            self.assertFalse({"lat", "lon", "center", "bounds"} & set(element))

    def test_limit_verbosity_and_tags_are_supported(self) -> None:
        ask = self.elements
        self.assertEqual(len(ask(f"[out:json];node{self.AROUND};out 5;")), 5)
        self.assertEqual(set(ask(f"[out:json];node{self.AROUND};out ids 1;")[0]), {"type", "id"})
        cafes = ask(f'[out:json];node["amenity"="cafe"]{self.AROUND};out;')
        self.assertEqual({element["tags"]["amenity"] for element in cafes}, {"cafe"})
        others = ask(f'[out:json];node["amenity"!="cafe"]{self.AROUND};out;')
        self.assertFalse(
            {element["id"] for element in others} & {element["id"] for element in cafes}
        )
        either = ask(
            f'[out:json];(node["amenity"="cafe"]{self.AROUND};node[shop~"^b"]{self.AROUND};);out;'
        )
        by_pattern = ask(
            f'[out:json];node[~"^(amenity|shop)$"~"^(cafe|bakery)$"]{self.AROUND};out;'
        )
        self.assertEqual(either, by_pattern)
        everything = len(ask(f"[out:json];node{self.AROUND};out;"))
        self.assertEqual(len(others) + len(cafes), everything)
        self.assertEqual(len(ask(f'[out:json];node[!"amenity"]{self.AROUND};out;')) + len(
            ask(f"[out:json];node[amenity]{self.AROUND};out;")
        ), everything)  # fmt: skip

    def test_conditions_widen_a_search_until_it_has_enough_results(self) -> None:
        near, far = (f"node(around:{radius},%f,%f);" % UCLA for radius in (1500, 4000))
        few, many = (self.elements(f"[out:json];{query}out;") for query in (near, far))
        self.assertTrue(0 < len(few) < len(many))
        for count, expected in ((len(few), few), (len(few) + 1, many)):
            query = f"[out:json];{near}if(count(nodes)<{count}){{{far}}};out;"
            self.assertEqual(self.elements(query), expected)
        # Elements that are printed before the search widens are printed again.
        query = f"[out:json];{near}if(count(nodes)<%d){{out body;{far}}};out;"
        self.assertEqual(self.elements(query % len(few)), few)
        self.assertEqual(self.elements(query % (len(few) + 1)), few + many)
        kinds = {"nodes": 1, "ways": 0, "relations": 0, "nw": 1, "nr": 1, "wr": 0, "nwr": 1}
        for kind, counts_nodes in kinds.items():
            query = f"[out:json];{near}if(count({kind})<1){{{far}}};out;"
            self.assertEqual(self.elements(query), few if counts_nodes else many, kind)
        # The statements of a false condition are parsed, but not executed.
        kept = f"[out:json];{near}if (count(ways) > 0) {{{far}}};out;"
        self.assertEqual(self.elements(kept), few)
        self.assertEqual(self.overpass(f"[out:json];{near}if(count(nodes)<0){{town;}};out;")[0], 400)

    def test_the_query_may_be_sent_in_three_ways(self) -> None:
        query = f"[out:json];node{self.AROUND};out 3;"
        headers = {"User-Agent": AGENT}
        by_form = self.overpass(query)
        by_url = self.ask(
            "GET", f"{OVERPASS}?{urllib.parse.urlencode({'data': query})}", headers=headers
        )
        by_body = self.ask("POST", OVERPASS, query, headers)
        self.assertEqual(by_form[2], by_url[2])
        self.assertEqual(by_form[2], by_body[2])

    def test_the_default_format_is_xml(self) -> None:
        self.assertIn("xml", self.overpass(f"node{self.AROUND};out;")[1]["Content-Type"])

    def test_errors_are_html_pages(self) -> None:
        for query in ("", "out", "node;out;", f"[out:json];town{self.AROUND};out;", f"[out:json];node{self.AROUND}",
                      "[out:json];node(around:x,1,2);out;", f"[out:json];nodes{self.AROUND};out;",
                      f"[out:json];node{self.AROUND};if(count(way)<1){{out;}};", "[out:json];node(around:1,91,2);out;"):  # fmt: skip
            with self.subTest(query):
                status, headers, data = self.overpass(query)
                self.assertEqual((status, headers.get_content_type()), (400, "text/html"))
                self.assertIn(b"parse error", data)

    def test_a_distinctive_user_agent_is_required(self) -> None:
        query = f"[out:json];node{self.AROUND};out 1;"
        for agent in ("", "curl/8", "python-requests/2"):
            self.assertEqual(self.overpass(query, agent)[0], 406, agent)

    def test_queries_wait_for_a_slot(self) -> None:
        self.server.control("mode?latency_ms=100&requests=6", "POST")
        query = f"[out:json];node{self.AROUND};out 1;"
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            statuses = [done[0] for done in pool.map(lambda _: self.overpass(query), range(6))]
        self.assertEqual(statuses, [200] * 6)
        self.assertGreaterEqual(time.monotonic() - began, 0.3)
        status = self.ask("GET", "/api/status")[2]
        self.assertIn(b"2 slots available now", status)


class Behavior(Case):
    def test_every_framing_is_supported(self) -> None:
        self.start()
        whole = self.ask("GET", f"{LEGACY}?key={KEY}&location=34,-118&radius=9000")[2]
        for framing, header in (
            ("chunked", "Transfer-Encoding"),
            ("length", "Content-Length"),
            ("close", "Connection"),
        ):
            with self.subTest(framing):
                self.server.control(f"mode?framing={framing}", "POST")
                _, headers, body = self.ask(
                    "GET", f"{LEGACY}?key={KEY}&location=34,-118&radius=9000"
                )
                self.assertIn(header, headers)
                self.assertEqual(body, whole)

    def test_gzip_is_used_only_on_request(self) -> None:
        self.start()
        _, headers, plain = self.ask("GET", f"{LEGACY}?key={KEY}")
        self.assertNotIn("Content-Encoding", headers)
        _, headers, packed = self.ask(
            "GET", f"{LEGACY}?key={KEY}", headers={"Accept-Encoding": "gzip"}
        )
        self.assertEqual((headers["Content-Encoding"], gzip.decompress(packed)), ("gzip", plain))

    def test_failures_have_the_bodies_of_the_services(self) -> None:
        self.start("--overpass-slots", 0)
        new = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL",
               503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}  # fmt: skip
        legacy = {400: (200, "REQUEST_DENIED"), 403: (200, "REQUEST_DENIED"), 429: (200, "OVER_QUERY_LIMIT"),
                  500: (500, "UNKNOWN_ERROR")}  # fmt: skip
        for code, status in new.items():
            with self.subTest(code):
                self.server.control(f"mode?mode=fail-{code}", "POST")
                got, document = self.search(circle())
                self.assertEqual(
                    (got, document["error"]["code"], document["error"]["status"]),
                    (code, code, status),
                )
                if code in legacy:
                    got, document = self.legacy(key=KEY, location="1,2", radius=3)
                    self.assertEqual((got, document["status"]), legacy[code])
                else:
                    got, headers, _ = self.ask("GET", LEGACY)
                    self.assertEqual((got, headers.get_content_type()), (code, "text/html"))
                got, _, data = self.overpass("[out:json];node(around:1,1,1);out;")
                if code == 500:  # fails after the start of its response
                    self.assertEqual((got, json.loads(data)["elements"]), (200, []))
                    self.assertIn("timed out", json.loads(data)["remark"])
                else:
                    self.assertEqual((got, b"<html" in data), (code, True))
        self.server.control("mode?mode=not-json", "POST")
        got, headers, _ = self.ask("POST", NEW, circle())
        self.assertEqual((got, headers.get_content_type()), (200, "text/html"))

    def test_a_mode_may_apply_to_a_number_of_requests(self) -> None:
        self.start()
        self.server.control("mode?mode=fail-503&requests=2", "POST")
        self.assertEqual([self.search(circle())[0] for _ in range(4)], [503, 503, 200, 200])
        self.assertEqual(self.server.control("mode")["mode"], "ok")

    def test_an_unknown_mode_is_rejected(self) -> None:
        self.start()
        for query in (
            "mode=slow",
            "latency_ms=-1",
            "latency_ms=60001",
            "color=red",
            "framing=morse",
        ):
            with self.subTest(query), self.assertRaises(urllib.error.HTTPError) as refused:
                self.server.control(f"mode?{query}", "POST")
            self.assertEqual(refused.exception.code, 400)
            refused.exception.close()
        self.assertEqual(self.server.control("mode")["mode"], "ok")

    def test_connections_are_reset_and_truncated(self) -> None:
        request = f"GET {LEGACY}?key={KEY}&location=34,-118&radius=9000 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        for tls in (False, True):
            self.start("--framing", "length", tls=tls)
            whole = len(self.ask("GET", f"{LEGACY}?key={KEY}&location=34,-118&radius=9000")[2])
            for mode, end, share in (
                ("reset", "reset", 0),
                ("reset-body", "reset", 2),
                ("truncate", "eof", 2),
            ):
                with self.subTest(mode, tls=tls):
                    self.server.control(f"mode?mode={mode}", "POST")
                    with Client(self.server.port, trusting() if tls else None) as client:
                        client.exchange(request)
                    self.assertEqual(client.ended, end)
                    body = client.text.partition(b"\r\n\r\n")[2]
                    self.assertEqual(len(body), share and whole // share)

    def test_drop_closes_without_notice_and_close_announces_it(self) -> None:
        self.start(tls=True)
        for mode, announced in (("drop", False), ("close", True)):
            with self.subTest(mode):
                self.server.control(f"mode?mode={mode}", "POST")
                with Client(self.server.port, trusting()) as client:
                    client.exchange(f"GET {LEGACY} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                self.assertTrue(client.text.endswith(b"\r\n0\r\n\r\n"), "the answer is whole")
                self.assertEqual(b"\r\nConnection: close\r\n" in client.text, announced)
                self.assertEqual(client.ended, "close_notify")

    def test_a_stall_ends_when_the_mode_changes(self) -> None:
        self.start(tls=True)
        for mode in ("stall", "stall-head", "stall-body"):
            with self.subTest(mode):
                self.server.control(f"mode?mode={mode}", "POST")
                connection = self.connect()
                connection.request("GET", LEGACY)
                connection.sock.settimeout(0.3)
                with self.assertRaises(socket.timeout):
                    connection.getresponse().read()
                self.wait_until(lambda: self.server.control("stats")["requests"]["in_flight"])
                self.server.control("mode", "POST")
                self.wait_until(lambda: not self.server.control("stats")["requests"]["in_flight"])

    def wait_until(self, condition) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), end, "did not happen in time")
            time.sleep(0.01)

    def test_a_stall_ends_when_the_client_closes(self) -> None:
        self.start("--mode", "stall", tls=True)
        connection = self.connect()
        connection.request("GET", LEGACY)
        self.wait_until(lambda: self.server.control("stats")["requests"]["in_flight"])
        connection.sock.close()
        connection.close()
        self.wait_until(lambda: not self.server.control("stats")["connections"]["open"])

    def test_statistics_include_requests_connections_and_questions(self) -> None:
        self.start(tls=True)
        connection = self.connect()
        for radius in (100.0, 200.0, 100.0):
            self.search(circle(radius=radius), connection=connection)
        self.search(circle(), "places.rating", key="SECRET_KEY")
        self.legacy(key="SECRET_KEY", location="1,2", radius=3)
        stats = self.server.control("stats")
        self.assertEqual(stats["connections"]["accepted"], 3)
        self.assertEqual(stats["tls"]["handshakes"], 3)
        self.assertEqual(stats["tls"]["server_names"], {"localhost": 3})
        requests = stats["requests"]
        self.assertEqual(
            (requests["total"], requests["distinct"], requests["on_reused_connection"]), (5, 4, 2)
        )
        self.assertEqual(requests["by_api"], {"places_new": 4, "places_legacy": 1})
        self.assertEqual(requests["by_status"], {"200": 4, "400": 1})
        self.assertEqual(requests["by_sku"], {"Pro": 3, "Enterprise": 1})
        self.assertEqual(stats["recent"][0]["headers"]["x-goog-fieldmask"], MASK)
        self.assertNotIn("SECRET_KEY", json.dumps(stats))
        self.server.control("stats", "DELETE")
        self.assertEqual(self.server.control("stats")["requests"]["total"], 0)
        status, out, err = self.server.end()
        self.assertEqual((status, out, err), (0, "", ""))

    def test_resumed_sessions_are_counted(self) -> None:
        for version in ("1.2", "1.3"):
            with self.subTest(version):
                self.start("--tls", version, tls=True)
                context, session = trusting(), None
                for _ in range(2):
                    with socket.create_connection(
                        ("127.0.0.1", self.server.port), PATIENCE
                    ) as plain:
                        secured = context.wrap_socket(
                            plain, server_hostname="localhost", session=session
                        )
                        secured.sendall(
                            b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                        )
                        while secured.recv(4096):
                            pass
                        session = secured.session  # in TLS 1.3, tickets arrive with the response
                        secured.close()
                tls = self.server.control("stats")["tls"]
                self.assertEqual((tls["handshakes"], tls["resumed"]), (2, 1))
                self.assertEqual(tls["versions"], {f"TLSv{version}": 2})

    def test_failed_handshakes_are_counted(self) -> None:
        self.start(tls=True)
        with self.assertRaises(ssl.SSLCertVerificationError):
            self.ask("GET", "/", connection=self.connect(ssl.create_default_context()))
        self.wait_until(lambda: self.server.control("stats")["tls"]["failed"] == 1)

    def test_64_connections_are_served_at_once(self) -> None:
        self.start("--latency-ms", 500, tls=True)
        rounds, width = 2, 64
        together = threading.Barrier(width, action=lambda: began.append(time.monotonic()))
        began: list = []

        def client(number: int) -> int:
            connection = self.connect()
            connection.connect()
            together.wait(PATIENCE)
            found = 0
            for turn in range(rounds):
                body = circle(lat=number / 2, lng=float(turn))
                found += self.search(body, connection=connection)[0] == 200
            return found

        with concurrent.futures.ThreadPoolExecutor(width) as pool:
            self.assertEqual(sum(pool.map(client, range(width))), rounds * width)
        taken = time.monotonic() - began[0]
        self.assertLess(
            taken, rounds * width * 0.5, "1 s is the ideal, 64 s is one after the other"
        )
        stats = self.server.control("stats")
        self.assertEqual(stats["connections"]["max_open"], width)
        self.assertEqual(stats["requests"]["distinct"], rounds * width)

    def test_held_requests_are_answered_when_the_mode_changes(self) -> None:
        self.start("--mode", "hold", tls=True)
        width = 8
        with concurrent.futures.ThreadPoolExecutor(width) as pool:
            held = [pool.submit(self.search, circle(lat=float(at))) for at in range(width)]
            self.wait_until(
                lambda: self.server.control("stats")["requests"]["in_flight"].get("total") == width
            )
            self.assertFalse(any(one.done() for one in held))
            self.server.control("mode?mode=ok", "POST")
            self.assertEqual([one.result(PATIENCE)[0] for one in held], [200] * width)
        requests = self.server.control("stats")["requests"]
        self.assertEqual(requests["by_status"], {"200": width})
        self.assertEqual((requests["in_flight"], requests["max_in_flight"]["total"]), ({}, width))

    def test_a_response_is_counted_before_it_arrives(self) -> None:
        self.start()
        connection = self.connect()
        for count in range(1, 101):
            self.search(circle(), connection=connection)
            requests = self.server.control("stats")["requests"]
            self.assertEqual((requests["by_status"], requests["in_flight"]), ({"200": count}, {}))

    def test_a_mode_change_also_ends_a_stall_that_has_not_started(self) -> None:
        self.start()
        self.server.control("mode?mode=stall&latency_ms=500", "POST")
        connection = self.connect()
        connection.request("GET", LEGACY)
        self.wait_until(lambda: self.server.control("stats")["requests"]["in_flight"])
        self.server.control("mode", "POST")
        with self.assertRaises(http.client.RemoteDisconnected):
            connection.getresponse()

    def test_both_address_families_are_supported(self) -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            return  # there is nothing to test on a machine without IPv6
        self.start("--host", "127.0.0.1", "--host", "::1", tls=True)
        for host in ("127.0.0.1", "::1"):
            connection = http.client.HTTPSConnection(
                host, self.server.port, timeout=PATIENCE, context=trusting()
            )
            self.addCleanup(connection.close)
            self.assertEqual(self.ask("GET", LEGACY, connection=connection)[0], 200, host)

    def test_requests_have_limits(self) -> None:
        self.start()
        self.assertEqual(self.ask("POST", NEW, b"x" * 65_537)[0], 413)
        connection = self.connect()
        connection.request("POST", NEW, iter([b"{}"]), encode_chunked=True)
        self.assertEqual(connection.getresponse().status, 411)

    def test_sigterm_stops_it_during_requests(self) -> None:
        self.start("--mode", "stall", tls=True)
        connection = self.connect()
        connection.request("GET", LEGACY)
        self.wait_until(lambda: self.server.control("stats")["requests"]["in_flight"])
        self.assertEqual(self.server.end(), (0, "", ""))

    def test_places_can_be_read_from_a_file(self) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write('[{"name": "Depot", "lat": 1.0, "lng": 2.0}]')
            file.flush()
            self.start("--data", file.name, "--no-synthetic")
        document = self.legacy(key=KEY, location="1,2", radius=50_000)[1]
        self.assertEqual([result["name"] for result in document["results"]], ["Depot"])

    def test_errors_at_start_are_reported(self) -> None:
        for options in (
            (),
            ("--plain", "--data", "/nowhere.json"),
            ("--cert", "/nowhere", "--key", "/nowhere"),
        ):
            with self.subTest(options), self.assertRaises(RuntimeError) as failed:
                Server(self.addCleanup, EMULATOR, *options)
            self.assertRegex(str(failed.exception), "mint_certs.py|nowhere|No such file")
            self.assertNotIn("Traceback", str(failed.exception))


if __name__ == "__main__":
    unittest.main()
