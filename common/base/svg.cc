// SPDX-License-Identifier: Apache-2.0
#include "common/base/svg.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace palimpsest::svg {
namespace {

std::string Escape(absl::string_view text) {
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

}  // namespace

std::string Text(double x, double y, absl::string_view text, const TextStyle& style) {
  return absl::StrFormat(
      "<text x=\"%.1f\" y=\"%.1f\" font-size=\"%d\" fill=\"%s\" text-anchor=\"%s\" "
      "font-weight=\"%s\">%s</text>\n",
      x, y, style.size, style.colour, style.anchor, style.weight, Escape(text));
}

std::string UprightText(double x, double y, absl::string_view text, const TextStyle& style) {
  return absl::StrFormat("<g transform=\"rotate(-90 %.1f %.1f)\">%s</g>\n", x, y,
                         Text(x, y, text, style));
}

std::string Box(double x, double y, double width, double height, absl::string_view look) {
  return absl::StrFormat("<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" %s/>\n", x, y,
                         width, height, look);
}

std::string Line(double x1, double y1, double x2, double y2, absl::string_view look) {
  return absl::StrFormat("<line x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\" %s/>\n", x1, y1, x2,
                         y2, look);
}

std::string Document(double width, double height, absl::string_view elements) {
  return absl::StrCat(
      absl::StrFormat(
          "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
          "viewBox=\"0 0 %.0f %.0f\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n",
          width, height, width, height),
      Box(0, 0, width, height, "fill=\"#ffffff\""), elements, "</svg>\n");
}

}  // namespace palimpsest::svg
