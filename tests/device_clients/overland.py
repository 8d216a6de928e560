"""Sends one position with dawarich-api, which speaks Overland's dialect with a bearer token.

Usage: overland.py URL TOKEN JSON, where JSON is the arguments of `add_one_point`; `timestamp` is seconds
since the epoch, and `offset` the minutes by which its time zone is ahead of UTC. Prints the status that the
library reports.
"""

import asyncio
import datetime
import json
import sys

from dawarich_api import DawarichAPI

url, token, text = sys.argv[1:]
point = json.loads(text)
zone = datetime.timezone(datetime.timedelta(minutes=point.pop("offset", 0)))
point["timestamp"] = datetime.datetime.fromtimestamp(point["timestamp"], zone)
api = DawarichAPI(url, token, timezone=zone)
print(asyncio.run(api.add_one_point(**point)).response_code)
