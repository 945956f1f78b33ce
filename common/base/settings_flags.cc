// SPDX-License-Identifier: Apache-2.0
// The command line: --key VALUE, --key=VALUE, --key and --no-key for switches.
#include <algorithm>
#include <cstdio>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/base/build_info.h"
#include "common/base/exit_codes.h"
#include "common/base/settings.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"

namespace palimpsest {
namespace {

constexpr size_t kArgumentsMax = 1024;

std::string FlagOf(absl::string_view key) {
  return absl::StrCat("--", absl::StrReplaceAll(key, {{"_", "-"}}));
}

// What the arguments say, before anything is assigned: the file comes first, flags override it.
struct Arguments {
  struct Given {
    Setting* setting;
    std::string value;
  };
  SettingsAction action = SettingsAction::kRun;
  std::optional<std::string> config;
  std::vector<Given> given;
};

class FlagReader {
 public:
  FlagReader(absl::Span<const std::string> arguments, SettingsTable* table)
      : arguments_(arguments), table_(table) {}

  absl::StatusOr<Arguments> Read() {
    if (arguments_.size() > kArgumentsMax) {
      return Wrong(absl::StrCat(arguments_.size(), " arguments; at most ", kArgumentsMax));
    }
    while (at_ < arguments_.size()) KV_RETURN_IF_ERROR(ReadOne());
    return std::move(read_);
  }

 private:
  static absl::Status Wrong(absl::string_view message) {
    return absl::InvalidArgumentError(message);
  }

  absl::Status ReadOne() {
    const std::string& argument = arguments_[at_++];
    if (argument == "-h") return SetAction(SettingsAction::kHelp);
    if (argument.rfind("--", 0) != 0 || argument == "--") return Stray(argument);
    const size_t equals = argument.find('=');
    name_ = argument.substr(0, equals);
    value_.reset();
    if (equals != std::string::npos) value_ = argument.substr(equals + 1);
    if (name_ == "--help") return SetAction(SettingsAction::kHelp);
    if (name_ == "--version") return SetAction(SettingsAction::kVersion);
    if (name_ == "--check-config") return SetAction(SettingsAction::kCheckConfig);
    if (name_ == "--config") return ReadConfig();
    return ReadSetting();
  }

  // Help wins over version, version over check: the later enumerators ask for more.
  absl::Status SetAction(SettingsAction action) {
    if (value_.has_value()) return Wrong(absl::StrCat(name_, ": takes no value"));
    const bool first = read_.action == SettingsAction::kRun;
    read_.action = first ? action : std::min(read_.action, action);
    return absl::OkStatus();
  }

  absl::Status Stray(const std::string& argument) {
    const bool after_switch = at_ >= 2 && ParseBool(argument).ok();
    return Wrong(absl::StrCat(
        "unexpected argument ", Quoted(argument),
        after_switch ? absl::StrCat("; write ", Escaped(arguments_[at_ - 2]), "=", argument)
                     : "; settings are written --name VALUE"));
  }

  absl::Status TakeValue(absl::string_view expected) {
    if (value_.has_value()) return absl::OkStatus();
    if (at_ >= arguments_.size() || arguments_[at_].rfind("--", 0) == 0) {
      return Wrong(absl::StrCat(name_, ": a value is missing; expected ", expected));
    }
    value_ = arguments_[at_++];
    return absl::OkStatus();
  }

  absl::Status ReadConfig() {
    KV_RETURN_IF_ERROR(TakeValue("the path of a YAML file"));
    if (read_.config.has_value()) return Wrong("--config: given a second time");
    if (value_->empty()) return Wrong("--config: the path is empty");
    read_.config = *value_;
    return absl::OkStatus();
  }

  absl::Status ReadSetting() {
    Setting* setting = Lookup(name_);
    if (setting == nullptr && name_.rfind("--no-", 0) == 0) {
      setting = Lookup(absl::StrCat("--", name_.substr(5)));
      if (setting != nullptr && !setting->is_switch) setting = nullptr;
      if (setting != nullptr && value_.has_value()) {
        return Wrong(absl::StrCat(name_, ": takes no value"));
      }
      if (setting != nullptr) value_ = "false";
    }
    if (setting == nullptr) return Unknown();
    if (setting->is_switch && !value_.has_value()) value_ = "true";
    KV_RETURN_IF_ERROR(TakeValue(setting->allowed.empty() ? setting->kind : setting->allowed));
    if (!seen_.insert(setting->key).second) {
      return Wrong(absl::StrCat(FlagOf(setting->key), ": given a second time"));
    }
    read_.given.push_back({setting, *value_});
    return absl::OkStatus();
  }

  // Only the dashed spelling is a flag, so that each setting has one name to search for.
  Setting* Lookup(const std::string& flag) {
    if (flag.find('_') != std::string::npos) return nullptr;
    return table_->Find(absl::StrReplaceAll(flag.substr(2), {{"-", "_"}}));
  }

  absl::Status Unknown() {
    std::vector<std::string> flags = {"--config", "--check-config", "--help", "--version"};
    for (const Setting& setting : table_->settings()) {
      flags.push_back(FlagOf(setting.key));
      if (setting.is_switch) flags.push_back(absl::StrCat("--no-", FlagOf(setting.key).substr(2)));
    }
    const std::string nearest = Nearest(name_, flags);
    return Wrong(absl::StrCat("unknown flag ", Quoted(name_), "; ",
                              nearest.empty() ? absl::StrCat("see ", table_->program(), " --help")
                                              : absl::StrCat("did you mean ", nearest, "?")));
  }

  absl::Span<const std::string> arguments_;
  SettingsTable* table_;
  size_t at_ = 0;
  std::string name_;
  std::optional<std::string> value_;
  std::set<std::string> seen_;
  Arguments read_;
};

}  // namespace

absl::StatusOr<SettingsAction> ParseSettings(absl::Span<const std::string> arguments,
                                             SettingsTable* table) {
  KV_ASSIGN_OR_RETURN(const Arguments read, FlagReader(arguments, table).Read());
  if (read.action == SettingsAction::kHelp || read.action == SettingsAction::kVersion) {
    return read.action;
  }
  if (read.config.has_value()) KV_RETURN_IF_ERROR(ReadSettingsFile(*read.config, table));
  for (const Arguments::Given& given : read.given) {
    Setting::Values values = {given.value};
    if (given.setting->is_list || !given.setting->fields.empty()) {
      values.clear();
      if (!given.value.empty()) values = absl::StrSplit(given.value, ',');
    }
    KV_RETURN_IF_ERROR(table->Assign(given.setting, values, FlagOf(given.setting->key)));
  }
  KV_RETURN_IF_ERROR(table->CheckConflicts());
  return read.action;
}

std::optional<int> LoadSettings(int argc, const char* const* argv, SettingsTable* table) {
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  const absl::StatusOr<SettingsAction> action = ParseSettings(arguments, table);
  if (!action.ok()) {
    std::fprintf(stderr, "error: %s\nRun '%s --help' for all settings.\n",
                 std::string(action.status().message()).c_str(), table->program().c_str());
    return kExitUsage;
  }
  std::string text;
  switch (*action) {
    case SettingsAction::kRun:
      return std::nullopt;
    case SettingsAction::kHelp:
      text = table->Help();
      break;
    case SettingsAction::kVersion:
      text = absl::StrCat(table->program(), " ", BuildVersion(), " (", BuildCommit(), ")\n");
      break;
    case SettingsAction::kCheckConfig:
      text = absl::StrCat("# ", table->program(), ": the configuration is valid\n",
                          table->EffectiveYaml());
      break;
  }
  std::fputs(text.c_str(), stdout);
  return kExitOk;
}

}  // namespace palimpsest
