-- rfc3339(ms): a time as `2026-11-20T16:20:00.123Z`. Redis gives scripts no os.date, so the calendar is
-- Howard Hinnant's civil_from_days ("chrono-Compatible Low-Level Date Algorithms"). A task's times mostly fall on
-- one day or two and into one minute, so each of these is worked out once a run.
local date_of = {}

local function date(days)
  local floor = math.floor
  local shifted = days + 719468
  local era = floor(shifted / 146097)
  local day_of_era = shifted - era * 146097
  local year_of_era =
    floor((day_of_era - floor(day_of_era / 1460) + floor(day_of_era / 36524) - floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year_of_era + floor(year_of_era / 4) - floor(year_of_era / 100))
  local shifted_month = floor((5 * day_of_year + 2) / 153)
  local day = day_of_year - floor((153 * shifted_month + 2) / 5) + 1
  local month = shifted_month < 10 and shifted_month + 3 or shifted_month - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02d', year, month, day)
end

local text_of, minute_of = {}, {}

local function rfc3339(ms)
  local text = text_of[ms]
  if text then
    return text
  end
  local of_day, of_minute = ms % 86400000, ms % 60000
  local days, minute = (ms - of_day) / 86400000, (of_day - of_minute) / 60000
  date_of[days] = date_of[days] or date(days)
  minute_of[minute] = minute_of[minute] or string.format('T%02d:%02d:', minute / 60, minute % 60)
  text = date_of[days] .. minute_of[minute] .. string.format('%02d.%03dZ', of_minute / 1000, of_minute % 1000)
  text_of[ms] = text
  return text
end
