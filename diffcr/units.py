"""One convention of units: pc, yr, TV (rigidity), muG, velocities in c, angles in rad.

Quantities travel through the code as plain floats in these units; a constant here turns another unit
into ours by multiplication: ``distance = 3.0 * KPC`` is in parsec.
"""

import math

# Lengths in pc (the astronomical unit and the parsec: IAU 2012 B2, IAU 2015 B2).
PC = 1.0
KPC = 1e3
AU = math.pi / 648000
CM = AU / 1.495978707e13
KM = 1e5 * CM
LIGHT_YEAR = 9.4607304725808e17 * CM

# Times in yr (Julian years).
YR = 1.0
SECOND = 1 / 3.15576e7
DAY = 86400 * SECOND

# Velocities in c.
C_KM_S = 299792.458
KM_PER_S = 1 / C_KM_S
SPEED_OF_LIGHT = LIGHT_YEAR / YR
"""pc per yr: turns lengths over times into velocities in c by division."""

# Rigidities in TV, energies in TeV.
TV = 1.0
GV = 1e-3
PV = 1e3
EV = 1e6
TEV = 1.0
GEV = 1e-3
PEV = 1e3
EEV = 1e6

# Magnetic fields in muG.
MICROGAUSS = 1.0
LARMOR_RADIUS = 1e12 / (299792458.0 * 1e-10) * 100 * CM
"""Larmor radius r_L = R / (B c) in pc for a rigidity of 1 TV across 1 muG."""

# Angles in rad.
DEGREE = math.pi / 180
HOUR = math.pi / 12
ARCSEC = DEGREE / 3600
