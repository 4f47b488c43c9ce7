-- Every raw save to a board of the days, with the reason for which staging refuses it, or null.
with judged as (
    select
        *,
        case
            when board_id is null then 'board_id is null'
            when user_id is null then 'user_id is null'
            when pin_id is null then 'pin_id is null'
            when pin_id = -1 then 'pin_id -1 is reserved'
            when ts is null then 'ts is null'
            when ts < dt then 'ts is before the day of its partition'
            when ts >= dt + interval 1 day then 'ts is after the day of its partition'
        end as fault
    from {{ source('raw', 'board_pins') }}
    where dt between '{{ var("first_dt") }}' and '{{ var("last_dt") }}'
)

select
    * exclude (fault),
    case
        when fault is not null then fault
        when row_number() over (partition by dt, board_id, user_id, pin_id, ts, fault is null order by file) > 1
            then 'duplicate of another row of the day'
    end as reason
from judged
