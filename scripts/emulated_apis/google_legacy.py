"""Emulates Google's Nearby Search (Legacy), GET /maps/api/place/nearbysearch/json.

  https://developers.google.com/maps/documentation/places/web-service/legacy/search-nearby

Like the original, it reports most errors with HTTP status 200 and a `status` in the document. All
results are within the radius, although the documentation permits others.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Mapping, Optional, Sequence, Tuple

from . import Request, Response, as_json
from .places import DEGREE_M, Gazetteer, Place, rating

PATH = "/maps/api/place/nearbysearch/json"
MAX_RADIUS_M = 50_000.0
PAGE = 20  # maximum number of results per response


def nearby_search(request: Request, gazetteer: Gazetteer, api_key: str) -> Response:
    """Responds to GET /maps/api/place/nearbysearch/json."""
    query = request.query
    if not query.get("key"):
        return answer(
            "REQUEST_DENIED",
            "You must use an API key to authenticate each request to Google Maps Platform APIs. For "
            "additional information, please refer to http://g.co/dev/maps-no-account",
        )
    if query["key"] != api_key:
        return failure(400)
    question = parse_question(query)
    if question is None:
        return answer("INVALID_REQUEST")
    lat, lng, radius, by_distance, start = question
    found = list(gazetteer.within(lat, lng, radius))
    if not by_distance:
        found.sort(key=lambda place: -place.popularity)
    results = [result_of(place) for place in found[start : start + PAGE]]
    more = (
        page_token(lat, lng, radius, by_distance, start + PAGE) if found[start + PAGE :] else None
    )
    return answer("OK" if results else "ZERO_RESULTS", results=results, more=more)


def parse_question(query: Mapping[str, str]) -> Optional[Tuple[float, float, float, bool, int]]:
    """Returns the latitude, the longitude, the radius, true for ordering by distance, and the index
    of the first result; None for an invalid request."""
    try:
        if "pagetoken" in query:
            lat, lng, radius, by_distance, start = json.loads(
                base64.urlsafe_b64decode(query["pagetoken"])
            )
            return float(lat), float(lng), float(radius), bool(by_distance), int(start)
        lat, lng = (plain_float(part) for part in query["location"].split(","))
        by_distance = query.get("rankby") == "distance"
        if by_distance == ("radius" in query):
            return None  # exactly one is required
        radius = MAX_RADIUS_M if by_distance else min(plain_float(query["radius"]), MAX_RADIUS_M)
    except (KeyError, TypeError, ValueError, binascii.Error):
        return None
    if abs(lat) > 90 or abs(lng) > 180 or radius <= 0:
        return None
    return lat, lng, radius, by_distance, 0


def plain_float(text: str) -> float:
    if not re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*", text):
        raise ValueError(text)  # float() would accept nan, inf and 1e9
    return float(text)


def page_token(*state) -> str:
    return base64.urlsafe_b64encode(json.dumps(state).encode()).decode()


def result_of(place: Place) -> dict:
    d_lat = 150 / DEGREE_M
    return {
        "business_status": "OPERATIONAL",
        "geometry": {
            "location": {"lat": place.lat, "lng": place.lng},
            "viewport": {
                "northeast": {"lat": place.lat + d_lat, "lng": place.lng + d_lat},
                "southwest": {"lat": place.lat - d_lat, "lng": place.lng - d_lat},
            },
        },
        "icon": f"https://emulated.invalid/{place.kind}-71.png",
        "icon_background_color": "#7B9EB0",
        "icon_mask_base_uri": f"https://emulated.invalid/{place.kind}",
        "name": place.name,
        "place_id": place.place_id,
        "rating": rating(place),
        "reference": place.place_id,
        "scope": "GOOGLE",
        "types": [place.kind, "point_of_interest", "establishment"],
        "user_ratings_total": place.number % 1000,
        "vicinity": place.vicinity,
    }


def answer(
    status: str,
    error: str = "",
    results: Sequence[dict] = (),
    more: Optional[str] = None,
    code: int = 200,
) -> Response:
    document: dict = {"error_message": error} if error else {}
    document["html_attributions"] = []
    if more:
        document["next_page_token"] = more
    document.update(results=list(results), status=status)
    text = as_json(document, " : ")
    return Response(code, "application/json; charset=UTF-8", text.encode())


def failure(code: int) -> Response:
    """Returns an error response. Only errors of the gateway, 503 and 504, are HTTP errors with a page
    instead of JSON."""
    if code == 400:
        return answer("REQUEST_DENIED", "The provided API key is invalid. ")
    if code == 403:
        return answer(
            "REQUEST_DENIED",
            "You're calling a legacy API, which is not enabled for your project. To get newer features "
            "and more functionality, switch to the Places API (New) or Routes API. Learn more: "
            "https://developers.google.com/maps/legacy#LegacyApiNotActivatedMapError",
        )
    if code == 429:
        return answer(
            "OVER_QUERY_LIMIT",
            "You have exceeded your daily request quota for this API. If you did not set a custom daily "
            "request quota, verify your project has an active billing account: "
            "http://g.co/dev/maps-no-account",
        )
    if code == 500:
        return answer("UNKNOWN_ERROR", code=500)
    return gateway_page(code)


def gateway_page(code: int) -> Response:
    """The error page of Google's front end, which is not JSON."""
    page = (
        f"<!DOCTYPE html>\n<html lang=en>\n<title>Error {code}</title>\n"
        f"<p><b>{code}.</b> <ins>That’s an error.</ins>\n"
    )
    return Response(code, "text/html; charset=UTF-8", page.encode())
