"""Where a run is reported besides its own directory: the trackers that `report_to` names, through their own libraries.

    loop/trackers/tracking.py     what is reported, and when
    loop/trackers/libraries.py    one class for each library

Must never import a tracker's library, torch or Ray: `libraries.py` imports a library when the run asks for it.
"""

from loop.trackers.tracking import Trackers, check_installed

__all__ = ["Trackers", "check_installed"]
