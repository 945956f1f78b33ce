// SPDX-License-Identifier: Apache-2.0
#include "services/cli/command.h"

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/exit_codes.h"
#include "services/cli/interrupts.h"
#include "services/cli/terminal.h"

namespace palimpsest::cli {
namespace {

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:  // a file or folder that a flag names
      return kExitUsage;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
      return kExitRefused;
    case absl::StatusCode::kDeadlineExceeded:
      return kExitTimeout;
    default:
      return kExitFailed;
  }
}

// The table's key that `argument` is the flag of, when it is a list's.
const Setting* ListOf(const std::string& argument, SettingsTable* table) {
  if (argument.rfind("--", 0) != 0) return nullptr;
  const std::string name = argument.substr(2, argument.find('=') - 2);
  const Setting* setting = table->Find(absl::StrReplaceAll(name, {{"-", "_"}}));
  return setting != nullptr && setting->is_list ? setting : nullptr;
}

std::vector<std::string> WithListsJoined(const std::vector<std::string>& arguments,
                                         SettingsTable* table) {
  std::vector<std::string> joined;
  std::map<std::string, size_t> first;  // key -> its place in `joined`
  for (size_t i = 0; i < arguments.size(); ++i) {
    const Setting* list = ListOf(arguments[i], table);
    const size_t equals = arguments[i].find('=');
    const bool has_value = equals != std::string::npos || i + 1 < arguments.size();
    if (list == nullptr || !has_value) {
      joined.push_back(arguments[i]);
      continue;
    }
    const std::string value =
        equals != std::string::npos ? arguments[i].substr(equals + 1) : arguments[++i];
    const auto [found, fresh] = first.try_emplace(list->key, joined.size());
    if (fresh) {
      joined.push_back(
          absl::StrCat("--", absl::StrReplaceAll(list->key, {{"_", "-"}}), "=", value));
    } else {
      absl::StrAppend(&joined[found->second], ",", value);
    }
  }
  return joined;
}

// Ends this process the way `signal` would have, after everything is cleaned up. Shells see it.
[[noreturn]] void DieOf(int signal) {
  std::signal(signal, SIG_DFL);
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, signal);
  sigprocmask(SIG_UNBLOCK, &only, nullptr);
  raise(signal);
  std::_Exit(128 + signal);  // a signal that the parent made us ignore
}

int Tell(const VerbEnd& end, int signal) {
  const int code = end.status.ok() ? end.exit_code : Fail(end.status);
  if (signal != 0) DieOf(signal);
  PrintResult(end.text);
  return code;
}

}  // namespace

std::optional<int> LoadVerbSettings(const std::vector<std::string>& arguments,
                                    SettingsTable* table) {
  const std::vector<std::string> joined = WithListsJoined(arguments, table);
  std::vector<const char*> argv = {table->program().c_str()};
  for (const std::string& argument : joined) argv.push_back(argument.c_str());
  return LoadSettings(static_cast<int>(argv.size()), argv.data(), table);
}

int Fail(const absl::Status& status) {
  if (!absl::IsCancelled(status)) {
    WriteAll(STDERR_FILENO, absl::StrCat("error: ", status.message(), "\n"));
  }
  return ExitCodeOf(status);
}

int RunWithLoop(const std::function<VerbEnd(EventLoop&)>& run) {
  VerbEnd end;
  int signal = 0;
  WithEventLoop([&](EventLoop& loop) {
    end = run(loop);
    signal = loop.signal();
    return kExitOk;
  });
  return Tell(end, signal);
}

int RunInProcess(const std::function<VerbEnd()>& run) {
  HoldInterrupts();
  const VerbEnd end = run();
  return Tell(end, Interrupted());
}

void PrintResult(absl::string_view text) {
  if (!WriteAll(STDOUT_FILENO, text) && errno == EPIPE) DieOf(SIGPIPE);
}

}  // namespace palimpsest::cli
