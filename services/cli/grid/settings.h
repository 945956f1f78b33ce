// SPDX-License-Identifier: Apache-2.0
// The flags that say what is judged side by side, for every verb that judges.
#pragma once

#include "common/base/settings.h"
#include "services/cli/grid/points.h"

namespace palimpsest::cli {

// The section "What to compare". `choice` outlives the table.
void AddGridSettings(SettingsTable* table, GridChoice* choice);

}  // namespace palimpsest::cli
