"""Known sites at their published positions, sites given as numbers, and every refusal."""

import numpy as np
import pytest

from diffcr.errors import InputError
from diffcr.site import SITES, Site, site
from diffcr.units import DEGREE


def test_sites_hold_the_observatories_of_the_field():
    """Rounded positions known from elsewhere: a swapped or mirrored coordinate fails."""
    expected = {
        "IceCube": (-90, 270, 65),
        "IceTop": (-90, 270, 55),
        "HAWC": (19, -97, 57),
        "LHAASO": (29, 100, 50),
        "Auger": (-35, -69, 80),
        "Telescope Array": (39, -113, 55),
        "KASCADE-Grande": (49, 8, 40),
        "Tibet AS-gamma": (30, 91, 60),
        "ARGO-YBJ": (30, 91, 50),
        "Super-Kamiokande": (36, 137, 90),
        "GRAPES-3": (11, 77, 60),
        "Milagro": (36, -107, 50),
    }
    assert set(SITES) == set(expected)
    for name, numbers in expected.items():
        entry = SITES[name]
        found = np.array([entry.latitude, entry.longitude, entry.zenith_max]) / DEGREE
        np.testing.assert_allclose(found, numbers, atol=0.5)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("auger", "Auger"),
        ("ICECUBE", "IceCube"),
        ("telescope-array", "Telescope Array"),
        ("ta", "Telescope Array"),
        ("kascade grande", "KASCADE-Grande"),
        ("KG", "KASCADE-Grande"),
        ("tibet", "Tibet AS-gamma"),
        ("Tibet_AS_gamma", "Tibet AS-gamma"),
        ("sk", "Super-Kamiokande"),
        ("grapes3", "GRAPES-3"),
    ],
)
def test_names_are_found_in_any_spelling(given, name):
    assert site(given) is SITES[name]


def test_a_string_of_three_numbers_is_a_site_in_degrees():
    here = site("-35.2, -69.25, 60")
    np.testing.assert_allclose(
        [here.latitude, here.longitude, here.zenith_max], np.radians([-35.2, -69.25, 60]), rtol=1e-14
    )
    assert here.zenith_min == 0


def test_a_zenith_cut_replaces_the_default():
    narrow = site("hawc", 40 * DEGREE)
    assert narrow.zenith_max == 40 * DEGREE
    assert narrow.latitude == site("hawc").latitude
    assert site(narrow) is narrow
    inner = Site("ring", 0.1, 0.2, 1.0, 0.5)
    assert site(inner, 0.9).zenith_min == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: site("agasa"), r"unknown site 'agasa'.*Known: IceCube, IceTop, HAWC.*'LAT,LON,ZENITH'"),
        (lambda: site("icecub"), r"unknown site 'icecub'; the nearest known one is IceCube"),
        (lambda: site("19,-97"), r"'19,-97' is not 'LAT,LON,ZENITH': three numbers"),
        (lambda: site("19,west,57"), r"is not 'LAT,LON,ZENITH'"),
        (lambda: site("91,0,57"), r"latitude of site '91,0,57' must lie in \[-90, 90\] degrees, not 91:"),
        (lambda: site("nan,0,57"), r"latitude of site .* not nan"),
        (lambda: site("19,400,57"), r"longitude .* must lie in \[-360, 360\] degrees, not 400:"),
        (lambda: site("19,-97,91"), r"zenith_max .* must lie in \(0, 90\] degrees, not 91:"),
        (lambda: site("19,-97,0"), r"zenith_max .* must lie in \(0, 90\] degrees, not 0:"),
        (lambda: site("hawc", 57), r"zenith_max of site 'HAWC' .* a Site takes radians"),
        (lambda: Site("x", 0.1, 0.1, 1.0, -0.1), r"zenith_min .* must lie in \[0, 90\]"),
        (lambda: Site("x", 0.1, 0.1, 0.5, 0.5), r"accepts no direction: zenith_min 28.6479 is not below"),
    ],
)
def test_a_bad_site_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
