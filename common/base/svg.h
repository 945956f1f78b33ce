// SPDX-License-Identifier: Apache-2.0
// The elements that our pictures are made of, as text. Pure; every element ends with a line break.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace palimpsest::svg {

inline constexpr char kInk[] = "#1f2933";
inline constexpr char kSoftInk[] = "#52606d";

struct TextStyle {
  int size = 12;
  const char* colour = kSoftInk;
  const char* anchor = "start";
  const char* weight = "normal";
};

// `look` is attributes as SVG writes them: `fill="#ffffff"`.
std::string Text(double x, double y, absl::string_view text, const TextStyle& style = {});
// Reads upwards around (x, y).
std::string UprightText(double x, double y, absl::string_view text, const TextStyle& style = {});
std::string Box(double x, double y, double width, double height, absl::string_view look);
std::string Line(double x1, double y1, double x2, double y2, absl::string_view look);

// A whole document on a white ground.
std::string Document(double width, double height, absl::string_view elements);

}  // namespace palimpsest::svg
