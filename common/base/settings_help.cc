// SPDX-License-Identifier: Apache-2.0
// --help and --check-config, written from the table.
#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/base/settings.h"
#include "common/base/text.h"

namespace palimpsest {
namespace {

constexpr size_t kWidth = 100;
constexpr size_t kIndent = 6;

// Words of `text`, wrapped, each line indented.
void AppendWrapped(absl::string_view text, std::string* out) {
  std::string line(kIndent, ' ');
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (line.size() > kIndent && line.size() + 1 + word.size() > kWidth) {
      absl::StrAppend(out, line, "\n");
      line.assign(kIndent, ' ');
    }
    absl::StrAppend(&line, line.size() > kIndent ? " " : "", word);
  }
  if (line.size() > kIndent) absl::StrAppend(out, line, "\n");
}

void AppendFlag(const Setting& setting, std::string* out) {
  const std::string name = absl::StrReplaceAll(setting.key, {{"_", "-"}});
  absl::StrAppend(out, "  --", setting.is_switch ? "[no-]" : "", name,
                  setting.kind.empty() ? "" : " ", setting.kind, "\n");
  AppendWrapped(setting.doc.help, out);
  std::vector<std::string> facts;
  if (!setting.allowed.empty()) facts.push_back(absl::StrCat("Allowed: ", setting.allowed, "."));
  facts.push_back(setting.default_text.empty()
                      ? "No default."
                      : absl::StrCat("Default: ", Escaped(setting.default_text), "."));
  if (!setting.doc.example.empty()) {
    facts.push_back(absl::StrCat("Example: ", setting.doc.example));
  }
  AppendWrapped(absl::StrJoin(facts, " "), out);
}

// Double quotes make any text safe in YAML, but numbers and plain words read better without.
std::string YamlScalar(const std::string& text) {
  const bool plain = !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '/' || c == '_';
  });
  if (plain) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\"", "\\\""}}), "\"");
}

std::string YamlMap(const SettingMap& map) {
  std::vector<std::string> entries;
  for (const auto& [name, values] : map) {
    const std::string fields = absl::StrJoin(values, ", ", [](std::string* out, const auto& value) {
      absl::StrAppend(out, value.first, ": ", YamlScalar(value.second));
    });
    entries.push_back(absl::StrCat(YamlScalar(name), ": {", fields, "}"));
  }
  return absl::StrCat("{", absl::StrJoin(entries, ", "), "}");
}

}  // namespace

std::string SettingsTable::Help() const {
  std::string out = absl::StrCat(about_, "\n\nUSAGE\n  ", program_, " ", usage_, "\n");
  std::string section;
  for (const Setting& setting : settings_) {
    if (setting.section != section) {
      section = setting.section;
      absl::StrAppend(&out, "\n", absl::AsciiStrToUpper(section), "\n");
    }
    AppendFlag(setting, &out);
  }
  absl::StrAppend(
      &out, "\nEVERY PROGRAM\n",
      "  --config FILE\n      A YAML file of these settings, one 'key: value' a line: the "
      "key is the flag's name\n      with _ for -. Flags override the file.\n"
      "  --check-config\n      Check flags and file, print the settings in force, and "
      "end: 0 when valid, 2 when not.\n"
      "  --version\n  -h, --help\n");
  absl::StrAppend(&out, "\nUNITS\n",
                  "  BYTES  a whole number with B, KB, MB, GB, TB (1000s) or KiB, MiB, GiB, TiB "
                  "(1024s): 512MiB\n"
                  "  TIME   a whole number with ns, us, ms, s, m or h: 500ms\n");
  if (!examples_.empty()) absl::StrAppend(&out, "\nEXAMPLES\n");
  for (const auto& [arguments, purpose] : examples_) {
    absl::StrAppend(&out, "  # ", purpose, "\n  ", program_, arguments.empty() ? "" : " ",
                    arguments, "\n");
  }
  absl::StrAppend(&out,
                  "\nEXIT CODES\n  0 ok   1 failed   2 usage or configuration   3 refused   "
                  "4 timeout   10 reachable but unhealthy\n");
  return out;
}

std::string SettingsTable::EffectiveYaml() const {
  std::string out;
  for (const Setting& setting : settings_) {
    std::string value = YamlScalar(setting.show());
    if (!setting.fields.empty()) {
      value = YamlMap(setting.show_map());
    } else if (setting.is_list) {
      std::vector<std::string> items;
      for (const absl::string_view item : absl::StrSplit(setting.show(), ',', absl::SkipEmpty())) {
        items.push_back(YamlScalar(std::string(item)));
      }
      value = absl::StrCat("[", absl::StrJoin(items, ", "), "]");
    }
    absl::StrAppend(&out, setting.key, ": ", value, "  # ", setting.origin, "\n");
  }
  return out;
}

}  // namespace palimpsest
