// SPDX-License-Identifier: Apache-2.0
// One table per program says what can be set: key, kind, default, range, help, example. Flags
// (`--pool-size-bytes 512MiB`) and one YAML file (`pool_size_bytes: 512MiB`) fill the same typed
// struct through it, and --help and --check-config are made from it.
//
//   struct ShardSettings { Endpoint listen{.port = 7400}; uint64_t pool_size_bytes = 512 << 20; };
//   SettingsTable table("palimpsest-kvstore", "One shard of the store.");
//   table.Section("Network");
//   table.Address("listen", &settings.listen, "Where workers connect.");
//   table.Section("Memory");
//   table.Bytes("pool_size_bytes", &settings.pool_size_bytes, {1 << 20, 1ull << 40},
//               {"Size of the page pool.", "2GiB"});
//   if (const std::optional<int> code = LoadSettings(argc, argv, &table)) return *code;
//
// Strict: an unknown or repeated key, a wrong type, a value out of range or a conflict is refused
// with InvalidArgument that names the key, the value, what is allowed and where it was written.
// Flags override the file; the file is checked in full all the same. Defaults are what the struct
// holds when the table is made. The struct must outlive the table, and is half filled after an
// error.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/values.h"

namespace palimpsest {

// What is said of a setting to its user: one sentence with a full stop, and a value to copy.
struct SettingDoc {
  SettingDoc(const char* text) : help(text) {}  // NOLINT: most settings need no example
  SettingDoc(std::string text, std::string sample)
      : help(std::move(text)), example(std::move(sample)) {}
  std::string help;
  std::string example;
};

template <typename T>
struct Range {
  T min;
  T max;
};

// Entries by name, each with fields by name.
using SettingMap = std::map<std::string, std::map<std::string, std::string>>;

// One row of the table.
struct Setting {
  // What was written for this key: one text, a list's items, or a map's as "name.field=value".
  using Values = std::vector<std::string>;

  std::string key;  // snake_case; the flag is --key with dashes
  std::string section;
  std::string kind;     // for --help: BYTES, HOST:PORT, ...
  std::string allowed;  // range or choices; empty when the kind says it all
  SettingDoc doc = "";
  bool is_switch = false;  // --key and --no-key need no value
  bool is_list = false;
  std::vector<std::string> fields;  // of a map's entries; no map has none
  // Checks and stores. An error gives the reason only.
  std::function<absl::Status(const Values& values)> assign;
  std::function<std::string()> show;  // the present value, as the flag would write it
  std::function<SettingMap()> show_map;
  std::string default_text;
  std::string origin = "default";  // or "--key", or "file.yaml:3:5"
};

class SettingsTable {
 public:
  // `about` is one sentence. `usage` follows the program's name in the first line of --help.
  SettingsTable(std::string program, std::string about, std::string usage = "[--flag VALUE ...]");
  SettingsTable(const SettingsTable&) = delete;
  SettingsTable& operator=(const SettingsTable&) = delete;

  // Settings declared from here on appear under this heading.
  void Section(std::string title) { section_ = std::move(title); }

  // Keys are snake_case and unique (KV_CHECK). `target` holds the default now.
  void Switch(std::string key, bool* target, SettingDoc doc);
  void Text(std::string key, std::string* target, SettingDoc doc);
  void Real(std::string key, double* target, Range<double> range, SettingDoc doc);
  void Bytes(std::string key, uint64_t* target, Range<uint64_t> range, SettingDoc doc);
  void Duration(std::string key, std::chrono::nanoseconds* target,
                Range<std::chrono::nanoseconds> range, SettingDoc doc);
  void Address(std::string key, Endpoint* target, SettingDoc doc);
  void List(std::string key, std::vector<std::string>* target, Range<size_t> count, SettingDoc doc);
  template <typename T>
  void Integer(std::string key, T* target, Range<int64_t> range, SettingDoc doc);
  template <typename T>
  void Choice(std::string key, T* target, std::vector<std::pair<std::string, T>> choices,
              SettingDoc doc);
  // What is set for one name at a time, as `key: {NAME: {FIELD: VALUE}}` in the file and as
  // `--key NAME.FIELD=VALUE,...`; whoever gives the flag gives all of it. `fields`: there are no
  // others. `set(T*, field, value)` checks and stores a field, `show(T)` is the fields that are
  // set.
  template <typename T, typename Set, typename Show>
  void Map(std::string key, std::map<std::string, T>* target, std::vector<std::string> fields,
           Set set, Show show, SettingDoc doc);
  // Any other type with a parser whose errors say what is allowed, such as ParseClassFormats.
  template <typename T, typename Parse, typename Show>
  void Parsed(std::string key, T* target, Parse parse, Show show, SettingDoc doc);

  // After everything is read: refuses when `conflict()` is true. The error names the keys, their
  // values and origins, then `rule`, as in "pool_low must be below pool_high".
  void Conflict(std::vector<std::string> keys, std::function<bool()> conflict, std::string rule);

  // A line for the EXAMPLES of --help: arguments after the program's name, and what they are for.
  void Example(std::string arguments, std::string purpose);

  const std::string& program() const { return program_; }
  const std::vector<Setting>& settings() const { return settings_; }
  // Where the value of `key` comes from: "default", "--key" or "file.yaml:3:5". REQUIRES: a known
  // key.
  const std::string& origin(absl::string_view key) const;

  std::string Help() const;
  // The settings in force, as a file this program would accept, with the origin of each.
  std::string EffectiveYaml() const;

  // Used by the two readers below. Unknown keys give a null pointer.
  Setting* Find(absl::string_view key);
  std::vector<std::string> Keys() const;
  // Assigns and records the origin; errors are prefixed with `where` and the key.
  absl::Status Assign(Setting* setting, const Setting::Values& values, std::string where);
  absl::Status CheckConflicts() const;

 private:
  struct ConflictRule {
    std::vector<std::string> keys;
    std::function<bool()> conflict;
    std::string rule;
  };

  void Add(Setting setting);
  void AddChoice(std::string key, std::vector<std::string> names,
                 std::function<void(size_t index)> set, std::function<size_t()> index,
                 SettingDoc doc);
  void AddInteger(std::string key, Range<int64_t> range, std::function<void(int64_t)> set,
                  std::function<int64_t()> get, SettingDoc doc);
  void AddMap(std::string key, std::vector<std::string> fields,
              std::function<absl::Status(const SettingMap&)> set, std::function<SettingMap()> show,
              SettingDoc doc);

  std::string program_, about_, usage_, section_ = "Settings";
  std::vector<Setting> settings_;
  std::vector<ConflictRule> conflicts_;
  std::vector<std::pair<std::string, std::string>> examples_;
};

// What the arguments ask for. The caller does it: this module prints nothing.
enum class SettingsAction : uint8_t { kRun, kHelp, kVersion, kCheckConfig };

// Reads `arguments` (without the program's name) and the file that --config names into the table.
absl::StatusOr<SettingsAction> ParseSettings(absl::Span<const std::string> arguments,
                                             SettingsTable* table);

// Reads a configuration file; --config ends here.
absl::Status ReadSettingsFile(const std::string& path, SettingsTable* table);
// The same for text in memory; `path` is for the errors.
absl::Status ReadSettingsText(absl::string_view text, const std::string& path,
                              SettingsTable* table);

// For main(): parses, prints help, version, the checked configuration (stdout) or the error
// (stderr). Returns the exit code to end with, or nothing when the program should run.
std::optional<int> LoadSettings(int argc, const char* const* argv, SettingsTable* table);

// ---- details of the templates ----

template <typename T>
void SettingsTable::Integer(std::string key, T* target, Range<int64_t> range, SettingDoc doc) {
  static_assert(std::numeric_limits<T>::is_integer && !std::is_same_v<T, bool>);
  if (std::is_unsigned_v<T> && range.min < 0) range.min = 0;
  if (sizeof(T) < sizeof(int64_t)) {
    const auto max = static_cast<int64_t>(std::numeric_limits<T>::max());
    if (range.max > max) range.max = max;
  }
  AddInteger(
      std::move(key), range, [target](int64_t value) { *target = static_cast<T>(value); },
      [target] { return static_cast<int64_t>(*target); }, std::move(doc));
}

template <typename T>
void SettingsTable::Choice(std::string key, T* target,
                           std::vector<std::pair<std::string, T>> choices, SettingDoc doc) {
  std::vector<std::string> names;
  for (const auto& [name, value] : choices) names.push_back(name);
  auto index = [target, choices] {
    for (size_t i = 0; i < choices.size(); ++i) {
      if (choices[i].second == *target) return i;
    }
    return choices.size();
  };
  auto set = [target, choices](size_t i) { *target = choices[i].second; };
  AddChoice(std::move(key), std::move(names), set, index, std::move(doc));
}

template <typename T, typename Set, typename Show>
void SettingsTable::Map(std::string key, std::map<std::string, T>* target,
                        std::vector<std::string> fields, Set set, Show show, SettingDoc doc) {
  auto set_all = [target, set](const SettingMap& map) -> absl::Status {
    std::map<std::string, T> read;
    for (const auto& [name, values] : map) {
      for (const auto& [field, value] : values) {
        const absl::Status status = set(&read[name], field, value);
        if (status.ok()) continue;
        return absl::InvalidArgumentError(name + ": " + field + ": " +
                                          std::string(status.message()));
      }
    }
    *target = std::move(read);
    return absl::OkStatus();
  };
  auto show_all = [target, show] {
    SettingMap map;
    for (const auto& [name, value] : *target) map[name] = show(value);
    return map;
  };
  AddMap(std::move(key), std::move(fields), set_all, show_all, std::move(doc));
}

template <typename T, typename Parse, typename Show>
void SettingsTable::Parsed(std::string key, T* target, Parse parse, Show show, SettingDoc doc) {
  Setting setting;
  setting.key = std::move(key);
  setting.kind = "VALUE";
  setting.doc = std::move(doc);
  setting.assign = [target, parse](const Setting::Values& values) -> absl::Status {
    auto value = parse(values.front());
    if (!value.ok()) return value.status();
    *target = *std::move(value);
    return absl::OkStatus();
  };
  setting.show = [target, show] { return std::string(show(*target)); };
  Add(std::move(setting));
}

}  // namespace palimpsest
