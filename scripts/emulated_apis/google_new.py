"""Emulates Google's Nearby Search (New), POST /v1/places:searchNearby, as documented.

  request, response  https://developers.google.com/maps/documentation/places/web-service/nearby-search
  field mask         https://developers.google.com/maps/documentation/places/web-service/choose-fields
  SKU of a field     https://developers.google.com/maps/documentation/places/web-service/data-fields
  messages           https://github.com/googleapis/googleapis/tree/master/google/maps/places/v1
  error documents    https://google.aip.dev/193
                     https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto

Where the documentation is silent, the strictest interpretation applies: the key is checked first, a
radius of 0 is treated as missing (proto3 cannot distinguish them, and the field is required), and a
maxResultCount of 0 as unset. Codes, statuses, reasons and formats are Google's. The wording of messages
about values out of range is not documented, so clients must not depend on it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Dict, List, Optional, Tuple

from . import Request, Response, as_json
from .places import Gazetteer, Place, rating

PATH = "/v1/places:searchNearby"
MAX_RADIUS_M = 50_000.0
PAGE = 20  # maximum number of results per response
PROJECT = "123456789012"

# The top-level fields of a Place, by SKU. The most expensive requested field determines the SKU.
PRO = [
    "accessibilityOptions",
    "addressComponents",
    "addressDescriptor",
    "adrFormatAddress",
    "attributions",
    "businessStatus",
    "containingPlaces",
    "displayName",
    "formattedAddress",
    "googleMapsLinks",
    "googleMapsUri",
    "iconBackgroundColor",
    "iconMaskBaseUri",
    "id",
    "location",
    "name",
    "photos",
    "plusCode",
    "postalAddress",
    "primaryType",
    "primaryTypeDisplayName",
    "pureServiceAreaBusiness",
    "shortFormattedAddress",
    "subDestinations",
    "timeZone",
    "types",
    "utcOffsetMinutes",
    "viewport",
]
ENTERPRISE = [
    "currentOpeningHours",
    "currentSecondaryOpeningHours",
    "internationalPhoneNumber",
    "nationalPhoneNumber",
    "priceLevel",
    "priceRange",
    "rating",
    "regularOpeningHours",
    "regularSecondaryOpeningHours",
    "userRatingCount",
    "websiteUri",
]
ATMOSPHERE = [
    "allowsDogs",
    "curbsidePickup",
    "delivery",
    "dineIn",
    "editorialSummary",
    "evChargeAmenitySummary",
    "evChargeOptions",
    "fuelOptions",
    "generativeSummary",
    "goodForChildren",
    "goodForGroups",
    "goodForWatchingSports",
    "liveMusic",
    "menuForChildren",
    "neighborhoodSummary",
    "outdoorSeating",
    "parkingOptions",
    "paymentOptions",
    "reservable",
    "restroom",
    "reviews",
    "reviewSummary",
    "servesBeer",
    "servesBreakfast",
    "servesBrunch",
    "servesCocktails",
    "servesCoffee",
    "servesDessert",
    "servesDinner",
    "servesLunch",
    "servesVegetarianFood",
    "servesWine",
    "takeout",
]
KNOWN_FIELDS = frozenset(PRO + ENTERPRISE + ATMOSPHERE)

BODY_FIELDS = {
    "languageCode": str,
    "regionCode": str,
    "includedTypes": list,
    "excludedTypes": list,
    "includedPrimaryTypes": list,
    "excludedPrimaryTypes": list,
    "maxResultCount": int,
    "locationRestriction": dict,
    "rankPreference": str,
    "routingParameters": dict,
}


class Rejected(Exception):
    """A request that Google would reject with this error."""

    def __init__(self, code: int, status: str, message: str, *details: dict) -> None:
        super().__init__(message)
        self.code, self.status, self.message, self.details = code, status, message, details

    def response(self) -> Response:
        error = {"code": self.code, "message": self.message, "status": self.status}
        if self.details:
            error["details"] = list(self.details)
        return answer({"error": error}, self.code)


def search_nearby(request: Request, gazetteer: Gazetteer, api_key: str) -> Response:
    """Responds to POST /v1/places:searchNearby."""
    try:
        check_key(request, api_key)
        body = parse_body(request.body)
        mask = parse_mask(mask_text(request))
        lat, lng, radius = parse_circle(body)
        count = parse_count(body.get("maxResultCount", 0))
        by_distance = parse_rank(body.get("rankPreference", "RANK_PREFERENCE_UNSPECIFIED"))
        found = [p for p in gazetteer.within(lat, lng, radius) if wanted(p, body)]
    except Rejected as error:
        return error.response()
    if not by_distance:
        found = sorted(found, key=lambda place: -place.popularity)
    if not found:
        return answer({})  # proto3 JSON omits an empty list
    places = [select(message_of(place), mask["places"]) for place in found[:count]]
    return answer({"places": places})


def sku(request: Request) -> str:
    """Returns the SKU that Google would bill for the field mask of the request."""
    fields = {path.partition(".")[2].partition(".")[0] for path in mask_text(request).split(",")}
    if "*" in mask_text(request) or "" in fields or fields & set(ATMOSPHERE):
        return "Enterprise + Atmosphere"
    return "Enterprise" if fields & set(ENTERPRISE) else "Pro"


def check_key(request: Request, api_key: str) -> None:
    given = request.headers.get("x-goog-api-key") or request.query.get("key")
    if not given:
        raise Rejected(
            403,
            "PERMISSION_DENIED",
            "Method doesn't allow unregistered callers (callers without established identity). "
            "Please use API Key or other form of API consumer identity to call this API.",
        )
    if given != api_key:
        raise invalid_key()


def parse_body(body: bytes) -> dict:
    """Parses the request message. proto3 JSON accepts field names in camelCase and snake_case."""
    if not body.strip():
        return {}
    try:
        parsed = json.loads(body.decode("utf-8"), parse_constant=refuse_constant)
    except (UnicodeDecodeError, ValueError):
        message = "Invalid JSON payload received. Parser terminated before end of string."
        raise invalid(message) from None
    if not isinstance(parsed, dict):
        raise invalid(
            'Invalid JSON payload received. Unknown name "": Root element must be a message.'
        )
    message = camel_keys(parsed)
    for name, value in message.items():
        kind = BODY_FIELDS.get(name)
        if kind is None:
            raise unknown_name(name)
        if kind is not int and not isinstance(value, kind):
            raise invalid_value(snake(name), value)
    return message


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def mask_text(request: Request) -> str:
    """Returns the field mask, from the header or the system parameter in the URL."""
    query = request.query
    return (
        request.headers.get("x-goog-fieldmask") or query.get("$fields") or query.get("fields", "")
    )


def parse_mask(text: str) -> dict:
    """Parses a mask into a tree: the selected fields below each name; an empty tree selects all."""
    if not text:
        raise invalid(
            "FieldMask is a required parameter. See https://cloud.google.com/apis/docs/system-parameters "
            "on how to provide it. As an example, you can set the header 'X-Goog-FieldMask' to value "
            "'places.displayName' to ask for the display name of a place. You can also set the value "
            "to '*' in manual testing to get all the available response fields."
        )
    if text == "*":
        return {"places": {}}
    tree: Dict[str, dict] = {}
    shape = message_of(EXAMPLE)
    for path in text.split(","):
        names = path.split(".")
        top = names[1] if len(names) > 1 else None
        known = names[0] == "places" and (top is None or top in KNOWN_FIELDS)
        below = shape.get(top) if top else None
        if known and len(names) > 2 and below is not None:
            known = isinstance(below, dict) and names[2] in below
        if not known:
            detail = f"Error expanding 'fields' parameter. Cannot find matching fields for path '{path}'."
            raise invalid("Request contains an invalid argument.", field=text, description=detail)
        merge(tree, names)
    return tree


def merge(tree: dict, names: List[str]) -> None:
    """Adds a path to the tree. A path that is a prefix of others selects all fields below it."""
    for index, name in enumerate(names):
        if name in tree and not tree[name]:
            return
        if index == len(names) - 1:
            tree[name] = {}
        else:
            tree = tree.setdefault(name, {})


def select(value, tree: dict):
    """Returns the fields of a message that the mask selects."""
    if not tree or not isinstance(value, dict):
        return value
    return {name: select(value[name], below) for name, below in tree.items() if name in value}


def parse_circle(body: dict) -> Tuple[float, float, float]:
    restriction = body.get("locationRestriction", {})
    circle = restriction.get("circle")
    if not isinstance(circle, dict) or not isinstance(circle.get("center"), dict):
        raise invalid("Location restriction is required: locationRestriction.circle with a center.")
    for message, names in ((restriction, {"circle"}), (circle, {"center", "radius"})):
        for name in message:
            if name not in names:
                raise unknown_name(name, "location_restriction")
    center = circle["center"]
    for name in center:
        if name not in ("latitude", "longitude"):
            raise unknown_name(name, "location_restriction.circle.center")
    path = "location_restriction.circle"
    lat = number(center.get("latitude", 0.0), f"{path}.center.latitude")
    lng = number(center.get("longitude", 0.0), f"{path}.center.longitude")
    radius = number(circle.get("radius", 0.0), f"{path}.radius")
    if abs(lat) > 90:
        raise invalid("Latitude must be in the range [-90.0, +90.0].")
    if abs(lng) > 180:
        raise invalid("Longitude must be in the range [-180.0, +180.0].")
    if not 0 < radius <= MAX_RADIUS_M:
        raise invalid("Radius must be greater than 0.0 and at most 50000.0.")
    return lat, lng, radius


def parse_count(value) -> int:
    count = number(value, "max_result_count", "TYPE_INT32")
    if count != int(count) or not 0 <= count <= PAGE:
        raise invalid("max_result_count must be between 1 and 20.")
    return int(count) or PAGE


def parse_rank(value: str) -> bool:
    if value not in ("RANK_PREFERENCE_UNSPECIFIED", "DISTANCE", "POPULARITY"):
        raise invalid_value("rank_preference", value)
    return value == "DISTANCE"


def wanted(place: Place, body: dict) -> bool:
    """Applies the type filters. The only type of an emulated place is also its primary type."""
    included = body.get("includedTypes", []) + body.get("includedPrimaryTypes", [])
    excluded = body.get("excludedTypes", []) + body.get("excludedPrimaryTypes", [])
    return (not included or place.kind in included) and place.kind not in excluded


def number(value, path: str, kind: str = "TYPE_DOUBLE") -> float:
    """Parses a proto3 JSON number, which may be a string."""
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        parsed = float(value)
        if not math.isfinite(parsed):
            raise ValueError
    except (ValueError, OverflowError):
        raise invalid_value(path, value, kind) from None
    return parsed


def message_of(place: Place) -> dict:
    """Returns all fields of a place that the emulator supports."""
    title = place.kind.replace("_", " ").capitalize()
    return {
        "name": f"places/{place.place_id}",
        "id": place.place_id,
        "types": [place.kind, "point_of_interest", "establishment"],
        "formattedAddress": f"{place.vicinity}, Emulated Country",
        "location": {"latitude": place.lat, "longitude": place.lng},
        "viewport": {
            "low": {"latitude": place.lat - 0.001, "longitude": place.lng - 0.001},
            "high": {"latitude": place.lat + 0.001, "longitude": place.lng + 0.001},
        },
        "rating": rating(place),
        "googleMapsUri": f"https://emulated.invalid/?cid={place.number}",
        "businessStatus": "OPERATIONAL",
        "userRatingCount": place.number % 1000,
        "displayName": {"text": place.name, "languageCode": "en"},
        "primaryTypeDisplayName": {"text": title, "languageCode": "en"},
        "primaryType": place.kind,
        "shortFormattedAddress": place.vicinity,
    }


EXAMPLE = Place("", "", ("", ""), 0.0, 0.0, "", 0, 0.0)


def camel_keys(value):
    if isinstance(value, dict):
        return {
            re.sub(r"_([a-z])", lambda m: m[1].upper(), k): camel_keys(v) for k, v in value.items()
        }
    return [camel_keys(item) for item in value] if isinstance(value, list) else value


def snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda m: "_" + m[0].lower(), name)


def invalid(message: str, **violation: str) -> Rejected:
    if not violation:
        return Rejected(400, "INVALID_ARGUMENT", message)
    detail = {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}
    return Rejected(400, "INVALID_ARGUMENT", message, detail)


def unknown_name(name: str, path: str = "") -> Rejected:
    where = f" at '{path}'" if path else ""
    message = f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'
    return invalid(message, **({"field": path} if path else {}), description=message)


def invalid_value(path: str, value, kind: Optional[str] = None) -> Rejected:
    shown = json.dumps(value)
    message = f"Invalid value at '{path}'{f' ({kind})' if kind else ''}, {shown[:100]}"
    return invalid(message, field=path, description=message)


def invalid_key() -> Rejected:
    message = "API key not valid. Please pass a valid API key."
    localized = {
        "@type": "type.googleapis.com/google.rpc.LocalizedMessage",
        "locale": "en-US",
        "message": message,
    }
    return Rejected(400, "INVALID_ARGUMENT", message, error_info("API_KEY_INVALID"), localized)


def error_info(reason: str, **metadata: str) -> dict:
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {**metadata, "service": "places.googleapis.com"},
    }


def answer(document: dict, code: int = 200) -> Response:
    text = as_json(document)
    return Response(code, "application/json; charset=UTF-8", text.encode())


def failure(code: int) -> Response:
    """Returns an error response: 400 (invalid key), 403, 429, 500, 503 or 504."""
    console = f"https://console.developers.google.com/apis/api/places.googleapis.com/overview?project={PROJECT}"
    consumer = {"consumer": f"projects/{PROJECT}"}
    if code == 400:
        return invalid_key().response()
    if code == 403:
        return Rejected(
            403,
            "PERMISSION_DENIED",
            f"Places API (New) has not been used in project {PROJECT} before or it is disabled. Enable it "
            f"by visiting {console} then retry. If you enabled this API recently, wait a few minutes for "
            "the action to propagate to our systems and retry.",
            error_info("SERVICE_DISABLED", activationUrl=console, **consumer),
        ).response()
    if code == 429:
        return Rejected(
            429,
            "RESOURCE_EXHAUSTED",
            "Quota exceeded for quota metric 'SearchNearbyRequest' and limit 'SearchNearbyRequest per "
            f"minute' of service 'places.googleapis.com' for consumer 'project_number:{PROJECT}'.",
            error_info(
                "RATE_LIMIT_EXCEEDED",
                quota_metric="places.googleapis.com/SearchNearbyRequest",
                quota_limit="SearchNearbyRequestPerMinutePerProject",
                quota_limit_value="600",
                **consumer,
            ),
        ).response()
    status, message = {
        500: ("INTERNAL", "Internal error encountered."),
        503: ("UNAVAILABLE", "The service is currently unavailable."),
        504: ("DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
    }[code]
    return Rejected(code, status, message).response()
