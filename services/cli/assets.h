// SPDX-License-Identifier: Apache-2.0
// Where things are: the other programs, the shipped model, the problems.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace palimpsest::cli {

// A program beside this one (or in $PALIMPSEST_BIN). NotFound says where it was looked for.
absl::StatusOr<std::string> FindProgram(absl::string_view name);

// A path of the repository, such as "lab/reasoner/model": below $PALIMPSEST_DATA, a folder above
// this executable, ../share/palimpsest of it, or the working directory. NotFound says what to give
// instead of it (`flag`).
absl::StatusOr<std::string> FindShipped(absl::string_view path, absl::string_view flag);

// The Hugging Face folder that --model names, or the shipped reasoner where it names none. NotFound
// when it is no such folder.
absl::StatusOr<std::string> FindModelFolder(const std::string& model);

}  // namespace palimpsest::cli
