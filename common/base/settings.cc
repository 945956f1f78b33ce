// SPDX-License-Identifier: Apache-2.0
// The table itself; settings_yaml.cc and settings_flags.cc read into it, settings_help.cc writes
// it.
#include "common/base/settings.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/check.h"
#include "common/base/name.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"

namespace palimpsest {
namespace {

bool IsSnakeCase(absl::string_view key) {
  for (const char c : key) {
    if (!absl::ascii_islower(c) && !absl::ascii_isdigit(c) && c != '_') return false;
  }
  return !key.empty() && absl::ascii_islower(key.front()) && key.back() != '_';
}

// Before any parser sees them: no value needs a line break, and in a path, a log line or a parser's
// error it would be an accident or an attack.
absl::Status CheckText(const Setting::Values& values) {
  constexpr size_t kTextBytesMax = 4096;
  for (const std::string& text : values) {
    if (text.size() > kTextBytesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("text of ", text.size(), " bytes; allowed: at most ", kTextBytesMax));
    }
    if (!IsPlainText(text)) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(text), " holds a control character or is not UTF-8"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckField(const std::string& name, const std::string& field,
                        const std::vector<std::string>& fields) {
  if (std::find(fields.begin(), fields.end(), field) != fields.end()) return absl::OkStatus();
  const std::string nearest = Nearest(field, fields);
  return absl::InvalidArgumentError(absl::StrCat(
      name, ": unknown field ", Quoted(field), "; allowed: ", absl::StrJoin(fields, ", "),
      nearest.empty() ? "" : absl::StrCat("; did you mean '", nearest, "'?")));
}

absl::Status OutOfRange(absl::string_view found, absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(found), " is out of range; allowed: ", allowed));
}

// "name.field=value" items.
absl::StatusOr<SettingMap> ReadMap(const Setting::Values& items,
                                   const std::vector<std::string>& fields) {
  constexpr size_t kNamesMax = 4096;
  SettingMap map;
  for (const std::string& item : items) {
    const size_t equals = item.find('=');
    const size_t dot = item.rfind('.', equals);
    if (equals == std::string::npos || dot == std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(item), " is not of the form NAME.FIELD=VALUE"));
    }
    const std::string name = item.substr(0, dot), field = item.substr(dot + 1, equals - dot - 1);
    if (!IsName(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(name), " is no name; allowed: ", kNameRule));
    }
    KV_RETURN_IF_ERROR(CheckField(name, field, fields));
    if (!map[name].emplace(field, item.substr(equals + 1)).second) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": ", field, ": set a second time"));
    }
    if (map.size() > kNamesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("too many names; allowed: at most ", kNamesMax));
    }
  }
  return map;
}

// A row for an ordered type: `parse` reads a text, `write` shows a value.
template <typename T, typename Parse, typename Write>
Setting Ranged(T* target, Range<T> range, Parse parse, Write write) {
  Setting setting;
  setting.allowed = absl::StrCat(write(range.min), " to ", write(range.max));
  setting.assign = [=, allowed = setting.allowed](const Setting::Values& values) -> absl::Status {
    const absl::StatusOr<T> value = parse(values.front());
    if (!value.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(value.status().message(), "; allowed: ", allowed));
    }
    if (*value < range.min || *value > range.max) return OutOfRange(values.front(), allowed);
    *target = *value;
    return absl::OkStatus();
  };
  setting.show = [=] { return write(*target); };
  return setting;
}

}  // namespace

SettingsTable::SettingsTable(std::string program, std::string about, std::string usage)
    : program_(std::move(program)), about_(std::move(about)), usage_(std::move(usage)) {}

void SettingsTable::Add(Setting setting) {
  KV_CHECK(IsSnakeCase(setting.key));
  KV_CHECK(Find(setting.key) == nullptr);
  KV_CHECK(setting.key != "config" && setting.key != "help" && setting.key != "version" &&
           setting.key != "check_config" && setting.key.rfind("no_", 0) != 0);
  setting.section = section_;
  setting.default_text = setting.show();
  settings_.push_back(std::move(setting));
}

void SettingsTable::Switch(std::string key, bool* target, SettingDoc doc) {
  Setting setting;
  setting.key = std::move(key);
  setting.doc = std::move(doc);
  setting.is_switch = true;
  setting.assign = [target](const Setting::Values& values) -> absl::Status {
    KV_ASSIGN_OR_RETURN(*target, ParseBool(values.front()));
    return absl::OkStatus();
  };
  setting.show = [target] { return std::string(*target ? "true" : "false"); };
  Add(std::move(setting));
}

void SettingsTable::Text(std::string key, std::string* target, SettingDoc doc) {
  Setting setting;
  setting.key = std::move(key);
  setting.kind = "TEXT";
  setting.doc = std::move(doc);
  setting.assign = [target](const Setting::Values& values) {
    *target = values.front();
    return absl::OkStatus();
  };
  setting.show = [target] { return *target; };
  Add(std::move(setting));
}

void SettingsTable::Real(std::string key, double* target, Range<double> range, SettingDoc doc) {
  Setting setting = Ranged(target, range, ParseReal, [](double v) { return absl::StrCat(v); });
  setting.key = std::move(key);
  setting.kind = "NUMBER";
  setting.doc = std::move(doc);
  Add(std::move(setting));
}

void SettingsTable::Bytes(std::string key, uint64_t* target, Range<uint64_t> range,
                          SettingDoc doc) {
  Setting setting = Ranged(target, range, ParseBytes, FormatBytes);
  setting.key = std::move(key);
  setting.kind = "BYTES";
  setting.doc = std::move(doc);
  Add(std::move(setting));
}

void SettingsTable::Duration(std::string key, std::chrono::nanoseconds* target,
                             Range<std::chrono::nanoseconds> range, SettingDoc doc) {
  Setting setting = Ranged(target, range, ParseDuration, FormatDuration);
  setting.key = std::move(key);
  setting.kind = "TIME";
  setting.doc = std::move(doc);
  Add(std::move(setting));
}

void SettingsTable::Address(std::string key, Endpoint* target, SettingDoc doc) {
  Parsed(std::move(key), target, ParseEndpoint, FormatEndpoint, std::move(doc));
  settings_.back().kind = "HOST:PORT";
}

void SettingsTable::List(std::string key, std::vector<std::string>* target, Range<size_t> count,
                         SettingDoc doc) {
  Setting setting;
  setting.key = std::move(key);
  setting.kind = "A,B,...";
  setting.allowed = absl::StrCat(count.min, " to ", count.max, " items");
  setting.doc = std::move(doc);
  setting.is_list = true;
  setting.assign = [=, allowed = setting.allowed](const Setting::Values& values) -> absl::Status {
    if (values.size() < count.min || values.size() > count.max) {
      return absl::InvalidArgumentError(
          absl::StrCat("a list of ", values.size(), " items; allowed: ", allowed));
    }
    for (const std::string& item : values) {
      if (item.empty()) return absl::InvalidArgumentError("the list has an empty item");
    }
    *target = values;
    return absl::OkStatus();
  };
  setting.show = [target] { return absl::StrJoin(*target, ","); };
  Add(std::move(setting));
}

void SettingsTable::AddInteger(std::string key, Range<int64_t> range,
                               std::function<void(int64_t)> set, std::function<int64_t()> get,
                               SettingDoc doc) {
  Setting setting;
  setting.key = std::move(key);
  setting.kind = "NUMBER";
  setting.allowed = absl::StrCat(range.min, " to ", range.max);
  setting.doc = std::move(doc);
  setting.assign = [=, allowed = setting.allowed](const Setting::Values& values) -> absl::Status {
    const absl::StatusOr<int64_t> value = ParseInteger(values.front());
    if (!value.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(value.status().message(), "; allowed: ", allowed));
    }
    if (*value < range.min || *value > range.max) return OutOfRange(values.front(), allowed);
    set(*value);
    return absl::OkStatus();
  };
  setting.show = [get] { return absl::StrCat(get()); };
  Add(std::move(setting));
}

void SettingsTable::AddChoice(std::string key, std::vector<std::string> names,
                              std::function<void(size_t)> set, std::function<size_t()> index,
                              SettingDoc doc) {
  KV_CHECK(index() < names.size());  // the default is one of the choices
  Setting setting;
  setting.key = std::move(key);
  setting.kind = "NAME";
  setting.allowed = absl::StrJoin(names, ", ");
  setting.doc = std::move(doc);
  setting.assign = [=, allowed = setting.allowed](const Setting::Values& values) -> absl::Status {
    for (size_t i = 0; i < names.size(); ++i) {
      if (names[i] != values.front()) continue;
      set(i);
      return absl::OkStatus();
    }
    const std::string nearest = Nearest(values.front(), names);
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(values.front()), " is not a choice; allowed: ", allowed,
                     nearest.empty() ? "" : absl::StrCat("; did you mean '", nearest, "'?")));
  };
  setting.show = [names, index] { return names[index()]; };
  Add(std::move(setting));
}

void SettingsTable::AddMap(std::string key, std::vector<std::string> fields,
                           std::function<absl::Status(const SettingMap&)> set,
                           std::function<SettingMap()> show, SettingDoc doc) {
  KV_CHECK(!fields.empty());
  Setting setting;
  setting.key = std::move(key);
  setting.kind = "NAME.FIELD=VALUE,...";
  setting.allowed = absl::StrCat("the fields ", absl::StrJoin(fields, ", "));
  setting.doc = std::move(doc);
  setting.fields = fields;
  setting.assign = [fields = std::move(fields), set](const Setting::Values& items) -> absl::Status {
    KV_ASSIGN_OR_RETURN(const SettingMap map, ReadMap(items, fields));
    return set(map);
  };
  setting.show_map = show;
  setting.show = [show] {
    std::vector<std::string> items;
    for (const auto& [name, values] : show()) {
      for (const auto& [field, value] : values) {
        items.push_back(absl::StrCat(name, ".", field, "=", value));
      }
    }
    return absl::StrJoin(items, ",");
  };
  Add(std::move(setting));
}

void SettingsTable::Conflict(std::vector<std::string> keys, std::function<bool()> conflict,
                             std::string rule) {
  for (const std::string& key : keys) KV_CHECK(Find(key) != nullptr);
  conflicts_.push_back({std::move(keys), std::move(conflict), std::move(rule)});
}

void SettingsTable::Example(std::string arguments, std::string purpose) {
  examples_.emplace_back(std::move(arguments), std::move(purpose));
}

Setting* SettingsTable::Find(absl::string_view key) {
  for (Setting& setting : settings_) {
    if (setting.key == key) return &setting;
  }
  return nullptr;
}

std::vector<std::string> SettingsTable::Keys() const {
  std::vector<std::string> keys;
  for (const Setting& setting : settings_) keys.push_back(setting.key);
  return keys;
}

const std::string& SettingsTable::origin(absl::string_view key) const {
  const Setting* found = nullptr;
  for (const Setting& setting : settings_) {
    if (setting.key == key) found = &setting;
  }
  KV_CHECK(found != nullptr);
  return found->origin;
}

absl::Status SettingsTable::Assign(Setting* setting, const Setting::Values& values,
                                   std::string where) {
  KV_CHECK(setting->is_list || !setting->fields.empty() || values.size() == 1);
  absl::Status status = CheckText(values);
  if (status.ok()) status = setting->assign(values);
  if (!status.ok()) {
    // A flag already names its key.
    const std::string key = where.rfind("--", 0) == 0 ? "" : absl::StrCat(setting->key, ": ");
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", key, status.message()));
  }
  setting->origin = std::move(where);
  return absl::OkStatus();
}

absl::Status SettingsTable::CheckConflicts() const {
  for (const ConflictRule& rule : conflicts_) {
    if (!rule.conflict()) continue;
    const std::string found = absl::StrJoin(rule.keys, " and ", [this](std::string* out, auto& k) {
      for (const Setting& setting : settings_) {
        if (setting.key != k) continue;
        absl::StrAppend(out, k, " ", Quoted(setting.show()), " (", setting.origin, ")");
      }
    });
    return absl::InvalidArgumentError(absl::StrCat("conflict: ", found, ": ", rule.rule));
  }
  return absl::OkStatus();
}

}  // namespace palimpsest
