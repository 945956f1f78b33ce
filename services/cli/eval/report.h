// SPDX-License-Identifier: Apache-2.0
// The end of an evaluation: a table and sentences for people, JSON lines for machines. Pure.
#pragma once

#include <string>
#include <vector>

#include "services/cli/eval/figures.h"

namespace palimpsest::cli {

std::string EvalTable(const std::vector<PointFigures>& figures, int columns);
// What a reader must know before believing the table.
std::vector<std::string> EvalNotes(const EvalHeader& header,
                                   const std::vector<PointFigures>& figures);
// A line with the header and the notes, then a line a point. tests/cli/golden has their shape.
std::string EvalJsonLines(const EvalHeader& header, const std::vector<PointFigures>& figures);

}  // namespace palimpsest::cli
