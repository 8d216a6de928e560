"""Forwards one position with mesh2traccar, which sends GET requests of the OsmAnd protocol.

Usage: osmand.py JSON, where JSON is a message of Meshtastic, which would arrive over MQTT. The configuration
is mesh2traccar.conf in the working directory. Prints the log of the program.
"""

import sys
import types

from mesh2traccar import mesh2traccar

mesh2traccar.on_message(None, None, types.SimpleNamespace(payload=sys.argv[1].encode()))
