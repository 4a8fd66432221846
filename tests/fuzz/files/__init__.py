# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The readers of files, fed with what makes them go where they had not been before.

``python -m tests.fuzz.files --seconds 600`` changes inputs at random and keeps
those that take a reader through lines in an order that no other input did, so
that one change leads to the next. What is kept stands in ``tests/fuzz/corpus``,
from which the next run goes on; the tests read it again.
"""
